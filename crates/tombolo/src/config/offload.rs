//! Switches for offloads: `[offload]` in the file, and `TOMBOLO_OFFLOAD_*` in the environment, which beats it.

use std::ffi::OsString;

use tombolo_packet::Offload;
use tombolo_tun::OffloadSwitches;

/// What the names of the variables begin with; the name of the switch in capitals follows.
const VARIABLE_PREFIX: &str = "TOMBOLO_OFFLOAD_";

/// Which offloads may be used, and who says so. All of them where nobody says anything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OffloadConfig {
    /// At most one entry of each kind.
    switches: Vec<(Offload, Switch)>,
}

/// One switch that somebody set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switch {
    /// Whether the offload may be used.
    pub on: bool,
    /// Who set it.
    pub origin: Origin,
}

/// Who set a switch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// `[offload]` in the configuration.
    File,
    /// A variable of the environment.
    Environment,
}

/// The name of the variable that switches an offload, such as `TOMBOLO_OFFLOAD_GSO`.
pub fn variable(offload: Offload) -> String {
    format!("{VARIABLE_PREFIX}{}", offload.name().to_ascii_uppercase())
}

impl OffloadConfig {
    /// The switches that `environment` sets, for a program without a file.
    ///
    /// # Errors
    /// As [`OffloadConfig::apply_environment`].
    pub fn from_environment(
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, Vec<String>> {
        let mut config = Self::default();
        let problems = config.apply_environment(environment);
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Lets the variables of `environment` beat what was set before. Others than `TOMBOLO_OFFLOAD_*` are passed
    /// over, and so are empty ones. Returns what is wrong with them, a sentence for each.
    pub fn apply_environment(
        &mut self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        for (name, value) in environment {
            let name = name.to_string_lossy();
            if !name.starts_with(VARIABLE_PREFIX) || value.is_empty() {
                continue;
            }
            let Some(&offload) = Offload::ALL.iter().find(|offload| variable(**offload) == name) else {
                let known: Vec<String> = Offload::ALL.iter().map(|offload| variable(*offload)).collect();
                problems.push(format!("unknown variable {name}; known are: {}", known.join(", ")));
                continue;
            };
            match value.to_string_lossy().to_ascii_lowercase().as_str() {
                "on" | "true" | "1" => self.set(offload, true, Origin::Environment),
                "off" | "false" | "0" => self.set(offload, false, Origin::Environment),
                other => problems.push(format!("{name} is `{other}`: use on or off")),
            }
        }
        problems.sort();
        problems
    }

    /// Sets one switch.
    pub fn set(&mut self, offload: Offload, on: bool, origin: Origin) {
        self.switches.retain(|(known, _)| *known != offload);
        self.switches.push((offload, Switch { on, origin }));
    }

    /// Whether an offload may be used.
    pub fn is_on(&self, offload: Offload) -> bool {
        self.find(offload).is_none_or(|switch| switch.on)
    }

    fn find(&self, offload: Offload) -> Option<Switch> {
        self.switches.iter().find(|(known, _)| *known == offload).map(|(_, switch)| *switch)
    }

    /// The switches of the TUN.
    pub fn tun(&self) -> OffloadSwitches {
        OffloadSwitches {
            vnet_header: self.is_on(Offload::VnetHeader),
            checksum: self.is_on(Offload::Checksum),
            tso: self.is_on(Offload::Tso),
            uso: self.is_on(Offload::Uso),
            coalesce_tcp: self.is_on(Offload::CoalesceTcp),
            coalesce_udp: self.is_on(Offload::CoalesceUdp),
        }
    }

    /// Why an offload that is switched off is so: who did it, or to which other one that it needs.
    pub fn reason(&self, offload: Offload) -> String {
        let needed: &[Offload] = match offload {
            Offload::Tso | Offload::Uso => &[Offload::Checksum, Offload::VnetHeader],
            Offload::Checksum | Offload::CoalesceTcp | Offload::CoalesceUdp => &[Offload::VnetHeader],
            Offload::VnetHeader | Offload::Gso | Offload::Gro => &[],
        };
        for cause in std::iter::once(&offload).chain(needed) {
            match self.find(*cause) {
                Some(Switch { on: false, origin: Origin::File }) => {
                    return format!("`{} = false` in [offload]", cause.name());
                }
                Some(Switch { on: false, origin: Origin::Environment }) => {
                    return format!("{} in the environment", variable(*cause));
                }
                _ => {}
            }
        }
        "switched off".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Vec<(OsString, OsString)> {
        pairs.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
    }

    #[test]
    fn the_environment_beats_the_file_and_says_so() {
        let mut config = OffloadConfig::default();
        config.set(Offload::Tso, false, Origin::File);
        config.set(Offload::Gso, false, Origin::File);
        let problems = config.apply_environment(environment(&[
            ("TOMBOLO_OFFLOAD_TSO", "on"),
            ("TOMBOLO_OFFLOAD_GRO", "OFF"),
            ("TOMBOLO_OFFLOAD_USO", ""),
            ("TOMBOLO_LOG", "debug"),
        ]));
        assert_eq!(problems, [""; 0]);
        assert!(config.is_on(Offload::Tso) && config.is_on(Offload::Uso));
        assert!(!config.is_on(Offload::Gso) && !config.is_on(Offload::Gro));
        assert_eq!(config.reason(Offload::Gso), "`gso = false` in [offload]");
        assert_eq!(config.reason(Offload::Gro), "TOMBOLO_OFFLOAD_GRO in the environment");
    }

    #[test]
    fn every_switch_reaches_its_offload_and_no_other() {
        for &offload in Offload::ALL {
            for value in ["off", "false", "0"] {
                let pair = [(variable(offload), value.to_owned())];
                let pairs = pair.map(|(name, value)| (OsString::from(name), OsString::from(value)));
                let config = OffloadConfig::from_environment(pairs).unwrap();
                let off: Vec<_> = Offload::ALL.iter().filter(|other| !config.is_on(**other)).collect();
                assert_eq!(off, [&offload]);
            }
        }
    }

    #[test]
    fn a_bad_value_and_an_unknown_variable_are_told() {
        let problems = OffloadConfig::from_environment(environment(&[
            ("TOMBOLO_OFFLOAD_TSO", "maybe"),
            ("TOMBOLO_OFFLOAD_LRO", "off"),
        ]))
        .unwrap_err();
        assert_eq!(problems.len(), 2);
        assert_eq!(problems[0], "TOMBOLO_OFFLOAD_TSO is `maybe`: use on or off");
        assert!(
            problems[1].starts_with("unknown variable TOMBOLO_OFFLOAD_LRO; known are: "),
            "{}",
            problems[1]
        );
    }

    #[test]
    fn what_another_switch_takes_along_names_that_one() {
        let mut config = OffloadConfig::default();
        config.set(Offload::VnetHeader, false, Origin::File);
        assert_eq!(config.reason(Offload::Uso), "`vnet_header = false` in [offload]");
        assert_eq!(config.tun(), OffloadSwitches { vnet_header: false, ..OffloadSwitches::default() });
    }
}
