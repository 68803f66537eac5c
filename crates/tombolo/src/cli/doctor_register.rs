//! What `doctor` says of a server's register.

use std::path::Path;

use tombolo_control::authority::Record;
use tombolo_control::document::{NetworkDocument, TrustDocument};
use tombolo_store::{Inspection, StoreError, inspect};

use super::doctor::Finding;

/// With less than so many bytes free the register cannot be written soon.
const FREE_BAD: u64 = 64 << 20;
const FREE_NOTABLE: u64 = 1 << 30;

pub(super) fn findings(network: &str, directory: &Path) -> Vec<Finding> {
    let inspection = match inspect(directory) {
        // A machine that is no server has none.
        Err(StoreError::Missing(_)) => return Vec::new(),
        Err(error) => return vec![Finding::Bad(format!("{network}: {error}"))],
        Ok(inspection) => inspection,
    };
    let mut findings = vec![Finding::Good(format!(
        "{network}: the register is whole: {} records, {} KiB",
        inspection.snapshot.records.len(),
        inspection.size / 1024
    ))];
    findings.push(audit(network, &inspection));
    if inspection.open.is_empty() {
        findings.push(Finding::Good(format!("{network}: the register is its owner's alone")));
    }
    for (path, mode) in &inspection.open {
        findings.push(Finding::Bad(format!(
            "{network}: {} can be read by others than its owner: run `chmod {mode} {}`",
            path.display(),
            path.display()
        )));
    }
    let free = inspection.free >> 20;
    let text = format!("{network}: {free} MiB are free under {}", directory.display());
    findings.push(match inspection.free {
        0..FREE_BAD => Finding::Bad(format!(
            "{text}: the register cannot be written soon, and then nobody joins or renews; make room"
        )),
        FREE_BAD..FREE_NOTABLE => Finding::Notable(text),
        _ => Finding::Good(text),
    });
    findings
}

/// The log's chain was followed; the newest document names an entry of it, or somebody has cut the log.
fn audit(network: &str, inspection: &Inspection) -> Finding {
    let records = || inspection.snapshot.records.iter().filter_map(|stored| stored.record.as_ref());
    let settings = records().find_map(|record| match record {
        Record::Settings(settings) => Some(settings),
        _ => None,
    });
    let trust = settings.and_then(|settings| {
        records().find_map(|record| match record {
            Record::Trust(bytes) => TrustDocument::verify(bytes, &settings.network, &[settings.root]).ok(),
            _ => None,
        })
    });
    let Some(trust) = trust else {
        return Finding::Bad(format!(
            "{network}: the register's trust document does not verify: restore a backup, or the root key alone"
        ));
    };
    let document = records().find_map(|record| match record {
        Record::Published(published) => NetworkDocument::verify(&published.network, &trust).ok(),
        _ => None,
    });
    let signed = document.and_then(|document| document.audit_head);
    match (signed, inspection.audit) {
        (Some(signed), Some(head)) if !inspection.hashes.contains(&signed) => Finding::Bad(format!(
            "{network}: the audit log has {} entries, and not the one that the newest network document names: it was cut, \
             or belongs to an older backup",
            head.sequence
        )),
        (Some(_), None) => Finding::Bad(format!("{network}: the audit log is empty, and should not be")),
        (_, head) => Finding::Good(format!(
            "{network}: the audit log is unbroken ({} entries)",
            head.map_or(0, |head| head.sequence)
        )),
    }
}
