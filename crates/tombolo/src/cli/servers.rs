//! `network server`: lighthouses and relays beside the first server, and the roles that a token gives.

use tombolo_control::document::{Roles, Server};
use tombolo_control::frame::admin::{NetworkChange, NodeDetail, Operation, Reply};

use super::Failure;
use super::admin::{ask, done, other, selector};
use super::args::{Cli, NetworkServerCommand};
use super::init::endpoint;
use crate::paths::Directories;

/// The UDP port of an endpoint that names none.
const PORT: u16 = 8662;

pub(super) fn run(
    cli: &Cli,
    directories: &Directories,
    command: &NetworkServerCommand,
) -> Result<(), Failure> {
    let change = match command {
        NetworkServerCommand::Add { node, endpoint: endpoints } => {
            let NodeDetail { info, key, .. } = show(cli, directories, node)?;
            let roles = info.roles;
            if !roles.contains(Roles::LIGHTHOUSE) && !roles.contains(Roles::RELAY) {
                return Err(Failure::Mistake(format!(
                    "{} is no lighthouse and no relay: it has to join with a token of `tombolo token new --role \
                     lighthouse,relay`",
                    info.name
                )));
            }
            let endpoints = endpoints.iter().map(|text| endpoint(text, PORT)).collect::<Result<_, _>>()?;
            NetworkChange::AddServer(Server { node: info.node, key, roles, endpoints })
        }
        NetworkServerCommand::Remove { node } => {
            NetworkChange::RemoveServer(show(cli, directories, node)?.info.node)
        }
    };
    done(ask(cli, directories, Operation::NetworkSet(change))?)
}

fn show(cli: &Cli, directories: &Directories, node: &str) -> Result<NodeDetail, Failure> {
    match ask(cli, directories, Operation::NodeShow(selector(node)?))? {
        Reply::Node(detail) => Ok(*detail),
        _ => other(),
    }
}

/// The roles of a token. An authority has an issuer's key, which no token gives.
pub(super) fn roles(names: &[String]) -> Result<Roles, Failure> {
    names.iter().try_fold(Roles::NONE, |roles, name| match name.as_str() {
        "lighthouse" => Ok(roles | Roles::LIGHTHOUSE),
        "relay" => Ok(roles | Roles::RELAY),
        "gateway" => Ok(roles | Roles::GATEWAY),
        other => Err(Failure::Mistake(format!(
            "`{other}` is no role that a token gives: lighthouse, relay and gateway are"
        ))),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_gives_no_authority() {
        let names = |text: &str| Vec::from_iter(text.split(',').map(str::to_owned));
        assert_eq!(roles(&names("relay,lighthouse")).ok(), Some(Roles::RELAY | Roles::LIGHTHOUSE));
        assert_eq!(roles(&[]).ok(), Some(Roles::NONE));
        assert!(roles(&names("relay,authority")).is_err());
    }
}
