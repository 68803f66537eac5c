//! `rotate-key`.

use super::args::Cli;
use super::{Failure, failed, print_line, status};
use crate::control::{Answer, Client, Request};
use crate::paths::Directories;

pub(super) fn run(cli: &Cli, directories: &Directories) -> Result<(), Failure> {
    let network = directories.choose_network(cli.network.as_deref())?;
    let client = Client::new(&directories.control_socket(&network));
    match client.ask(&Request::RotateKey).map_err(failed)? {
        Answer::Done => {}
        answer => return Err(failed(answer.complaint())),
    }
    let report = status::ask(&client)?;
    print_line(&format!("this machine's key is {}", report.interface.public_key.unwrap_or_default()))
}
