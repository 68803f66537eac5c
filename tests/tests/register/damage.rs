//! A register on a full disk, of another version, open to others, or changed behind the server's back.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, ensure};
use tombolo_tests::{
    Result,
    command::{output, run},
    host::hosts,
    machine_wide_and_patient,
    topology::Internet,
};

use super::{LIMIT, secrets::Secrets};

#[test]
fn a_full_disk_is_told_of_nothing_is_lost_and_it_goes_on_with_room_control_rule_21() {
    machine_wide_and_patient(
        "a_full_disk_is_told_of_nothing_is_lost_and_it_goes_on_with_room_control_rule_21",
        |scene| {
            let mut internet = Internet::new()?;
            let [server, alpha, beta] = hosts(scene, &mut internet)?;
            let secrets = Secrets::new(scene, &server)?;
            // `ip netns exec` has a mount namespace of its own for each command: the disk is mounted outside.
            let state = server.folder.join("state");
            fs::create_dir_all(&state)?;
            let disk = Disk::mount(&state, "3m")?;
            alpha.join("alpha", &secrets.init(&server)?)?;
            let token = server.token(&[])?;
            let filler = state.join("filler");
            let mut size = 3 << 20;
            while size >= 1024 {
                // As much as there is room for.
                let more = fs::read(&filler).unwrap_or_default().len() + size;
                if fs::write(&filler, vec![0; more]).is_err() {
                    size /= 2;
                }
            }
            let granted = || output(&mut server.command(&["token", "new", "--json"]), LIMIT);
            let mut acknowledged = Vec::new();
            let refused = loop {
                let output = granted()?;
                if !output.status.success() {
                    break String::from_utf8_lossy(&output.stderr).into_owned();
                }
                acknowledged.push(serde_json::from_slice::<serde_json::Value>(&output.stdout)?);
                ensure!(acknowledged.len() < 200, "the disk is never full");
            };
            ensure!(refused.contains("the register could not be written"), "{refused}");
            let status = server.json(&["status", "--json"])?;
            ensure!(status["warnings"].to_string().contains("the disk is full"), "{}", status["warnings"]);
            let (code, said) = beta.refusal("beta", &token)?;
            ensure!(
                code == 2 && said.contains("the server answers, but did not let this machine in"),
                "{code} {said}"
            );
            alpha.reaches(&server, "server")?;
            // With room again it goes on by itself, and all that it had said holds.
            fs::remove_file(&filler)?;
            beta.join("beta", &token)?;
            let listed = server.json(&["token", "list", "--json"])?;
            ensure!(listed.as_array().is_some_and(|all| all.len() >= acknowledged.len()), "{listed}");
            ensure!(
                !server.json(&["status", "--json"])?["warnings"].to_string().contains("the disk is full")
            );
            server.kill()?;
            server.run(&["up"])?;
            ensure!(server.json(&["token", "list", "--json"])? == listed, "what was acknowledged was kept");
            server.run(&["down"])?;
            drop(disk);
            Ok(())
        },
    );
}

/// A small disk of its own under a folder.
struct Disk(PathBuf);

impl Disk {
    fn mount(place: &Path, size: &str) -> Result<Self> {
        let options = format!("size={size},mode=0755");
        run(std::process::Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(place))?;
        Ok(Self(place.to_owned()))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn doctor_looks_at_the_register_and_one_of_a_newer_version_is_refused_control_rule_21() {
    machine_wide_and_patient(
        "doctor_looks_at_the_register_and_one_of_a_newer_version_is_refused_control_rule_21",
        |scene| {
            let mut internet = Internet::new()?;
            let [server] = hosts(scene, &mut internet)?;
            Secrets::new(scene, &server)?.init(&server)?;
            let doctor = || -> Result<String> {
                Ok(String::from_utf8_lossy(&output(&mut server.command(&["doctor"]), LIMIT)?.stdout)
                    .into_owned())
            };
            let said = doctor()?;
            for line in
                ["the register is whole", "the audit log is unbroken", "its owner's alone", "MiB are free"]
            {
                ensure!(said.contains(line), "{line} is not in\n{said}");
            }
            let file = server.folder.join("state/tombolo/register.sqlite");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
            let said = doctor()?;
            ensure!(said.contains("BAD") && said.contains("chmod 600"), "{said}");
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
            server.run(&["down"])?;
            // The version stands in the header, 60 bytes from its beginning, as four bytes (SQLite's file format, §1.3).
            let mut bytes = fs::read(&file)?;
            bytes[60..64].copy_from_slice(&99_u32.to_be_bytes());
            fs::write(&file, bytes)?;
            let started = output(&mut server.command(&["up"]), LIMIT)?;
            let error = String::from_utf8_lossy(&started.stderr).into_owned();
            for said in [error, doctor()?] {
                ensure!(said.contains("is of version 99") && said.contains("upgrade"), "{said}");
            }
            Ok(())
        },
    );
}

#[test]
fn a_log_that_was_changed_is_told_with_the_entry_control_rule_7() {
    machine_wide_and_patient("a_log_that_was_changed_is_told_with_the_entry_control_rule_7", |scene| {
        let mut internet = Internet::new()?;
        let [server] = hosts(scene, &mut internet)?;
        server.init(&["--name", "server"])?;
        for group in ["databases", "strangers", "staff"] {
            server.run(&["network", "set", "--group", group])?;
        }
        server.run(&["down"])?;
        let verify = || output(&mut server.command(&["audit", "--verify"]), LIMIT);
        let said = |output: &std::process::Output| String::from_utf8_lossy(&output.stderr).into_owned();
        let whole = verify()?;
        ensure!(whole.status.success(), "{}", said(&whole));
        let log = server.json(&["audit", "--json"])?;
        let entries = log.as_array().context("a list")?;
        let of = |text: &str| {
            let entry =
                entries.iter().find(|entry| entry["text"].as_str().is_some_and(|said| said.contains(text)));
            entry.and_then(|entry| entry["entry"].as_u64()).context("the entry")
        };
        let number = i64::try_from(of("strangers")?)?;
        ensure!(number > 1 && number < i64::try_from(entries.len())?, "an entry between others: {log}");
        let file = server.folder.join("state/tombolo/register.sqlite");
        let untouched = fs::read(&file)?;
        let told_after = |change: &dyn Fn(&rusqlite::Connection) -> Result<usize>| -> Result<String> {
            fs::write(&file, &untouched)?;
            let register = rusqlite::Connection::open(&file)?;
            ensure!(change(&register)? > 0, "nothing was changed");
            drop(register);
            let told = verify()?;
            ensure!(told.status.code() == Some(2), "{:?} {}", told.status, said(&told));
            Ok(said(&told))
        };
        // One letter of one word.
        let text = told_after(&|register| {
            let query = "SELECT entry FROM audit WHERE sequence = ?";
            let mut entry: Vec<u8> = register.query_row(query, [number], |row| row.get(0))?;
            let word = entry.windows(9).position(|word| word == b"strangers").context("the word")?;
            entry[word + 3] = b'o';
            Ok(register.execute("UPDATE audit SET entry = ? WHERE sequence = ?", (entry, number))?)
        })?;
        let next = number + 1;
        ensure!(
            text.contains(&format!("entry {next} of the audit log does not follow the one before it")),
            "{text}"
        );
        // An entry that is left out, and an end that is cut off.
        let text =
            told_after(&|register| Ok(register.execute("DELETE FROM audit WHERE sequence = ?", [number])?))?;
        ensure!(text.contains(&format!("entry {number} of the audit log")), "{text}");
        let text =
            told_after(&|register| Ok(register.execute("DELETE FROM audit WHERE sequence >= ?", [number])?))?;
        ensure!(text.contains("no entry of the audit log has the hash"), "{text}");
        fs::write(&file, &untouched)?;
        server.run(&["up"])?;
        server.run(&["audit", "--verify"]).map(drop)
    });
}
