//! Putting right what somebody else changed: addresses, routes and guard of the interface, or the interface itself.

use tombolo_tun::Place;
use tombolo_tun::netlink::LinkState;

use super::run::SETTLE;
use super::start::options;
use super::{Daemon, engine, interface, peers};
use crate::cli::{Failure, failed};

impl Daemon {
    /// Puts right what somebody else changed.
    pub(super) fn restore(&mut self, link: LinkState) -> Result<(), Failure> {
        if self.is_joining() {
            return Ok(());
        }
        if link == LinkState::Missing {
            match self.device.place() {
                Ok(Place::Elsewhere) => {
                    // Moved to another namespace on purpose; the tunnel works there.
                    return Ok(());
                }
                Ok(Place::Here) => {}
                Ok(Place::Gone) | Err(_) => return self.replace_device(),
            }
        }
        match self.interface.restore() {
            Ok(true) => tracing::info!("what was changed on {} was put right", self.interface.plan.interface),
            Ok(false) => {}
            // The next change, or the next look, tries again; until then `status` shows it.
            Err(error) => tracing::warn!("{error}"),
        }
        let up = self.interface.is_up();
        let told = self.slot.handle().and_then(|handle| handle.set_link_up(up));
        told.map_err(failed)
    }

    /// The device was deleted under us: another one, and another engine on it. Sessions are lost, the
    /// peers are called at once.
    pub(super) fn replace_device(&mut self) -> Result<(), Failure> {
        if self.member.is_some() {
            // Sessions and peers go with the engine: the control plane comes up from the disk, as after a restart.
            tracing::warn!("the interface {} was deleted; beginning anew", self.interface.plan.interface);
            self.again = true;
            return Ok(());
        }
        tracing::warn!("the interface {} was deleted; making it anew", self.interface.plan.interface);
        self.save();
        self.slot.replace(None);
        if let Some(engine) = self.engine.take() {
            engine.stop();
        }
        // Another program may be in the middle of replacing it; the service manager starts us again if so.
        self.device = interface::open_device(&self.interface.plan.interface, &self.config).map_err(failed)?;
        let running = self.start_engine()?;
        self.slot.replace(Some(running.handle()));
        self.engine = Some(running);
        let mut everything = peers::everything(&self.config, &self.saved);
        for peer in &mut everything.peers {
            peer.initiate = peer.endpoint.is_some();
        }
        self.apply(everything);
        self.interface.restore()?;
        Ok(())
    }

    /// A request that was under way may hold the old engine, and with it the port, for a moment more.
    fn start_engine(&self) -> Result<tombolo_engine::Engine, Failure> {
        const TRIES: u32 = 40;
        let mut tries = 0;
        loop {
            tries += 1;
            let binder = engine::UdpBinder::new(&self.config.offload).with_routes();
            match engine::start(
                options(&self.config, &self.interface),
                &self.device,
                binder,
                self.events.clone(),
            ) {
                Err(error) if tries < TRIES => {
                    tracing::debug!("{error}; trying again");
                    std::thread::sleep(SETTLE);
                }
                other => return other,
            }
        }
    }
}
