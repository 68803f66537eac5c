//! `rotate-key`.

use super::args::Cli;
use super::{Failure, print_line, status};
use crate::control::{Answer, Client, Request};
use crate::paths::Directories;

pub(super) fn run(cli: &Cli, directories: &Directories) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let client = Client::new(&directories.control_socket(&network));
    match client.ask(&Request::RotateKey).map_err(|error| Failure::Runtime(error.to_string()))? {
        Answer::Done => {}
        Answer::Error { message } => return Err(Failure::Runtime(message)),
        _ => return Err(Failure::Runtime("the daemon gave another answer".to_owned())),
    }
    let report = status::ask(&client)?;
    print_line(&format!("this machine's key is {}", report.interface.public_key.unwrap_or_default()))
}
