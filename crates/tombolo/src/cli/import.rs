//! `import`.

use std::path::Path;

use super::args::{Cli, ImportArgs};
use super::{Failure, print_line};
use crate::config::{self, ConfigError, valid_name};
use crate::paths::Directories;
use crate::{atomic_file, import};

pub(super) fn run(cli: &Cli, directories: &Directories, arguments: &ImportArgs) -> Result<(), Failure> {
    let network = match &cli.network {
        Some(network) => network.clone(),
        None => arguments.file.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
    };
    if !valid_name(&network) {
        return Err(Failure::Mistake(format!(
            "`{network}` cannot be the name of a network (1 to 63 letters, digits and hyphens); give one with -n"
        )));
    }
    let text = std::fs::read_to_string(&arguments.file)
        .map_err(|error| Failure::Mistake(format!("{} cannot be read: {error}", arguments.file.display())))?;
    let text = zeroize::Zeroizing::new(text);
    let failed = |problems| Failure::from(ConfigError { path: arguments.file.clone(), problems });
    let imported = import::convert(&text, &network).map_err(failed)?;
    for note in &imported.notes {
        eprintln!("tombolo: {}: {note}", arguments.file.display());
    }
    let folder = arguments.directory.as_deref().unwrap_or(&directories.config);
    let target = folder.join(format!("{network}.toml"));
    // The result must be one that `up` takes; what it says is about the new file, not the old.
    config::parse(&imported.toml).map_err(|problems| {
        let error = ConfigError { path: target.clone(), problems };
        Failure::Mistake(format!("the converted configuration would not be accepted\n{error}"))
    })?;
    std::fs::create_dir_all(folder)
        .map_err(|error| Failure::runtime(format!("cannot make {}", folder.display()), error))?;
    let mut files: Vec<(std::path::PathBuf, &str, u32)> =
        imported.secrets.iter().map(|(name, key)| (folder.join(name), key.as_str(), 0o600)).collect();
    files.push((target.clone(), imported.toml.as_str(), 0o644));
    if !arguments.force
        && let Some((taken, ..)) = files.iter().find(|(path, ..)| path.symlink_metadata().is_ok())
    {
        return Err(Failure::Mistake(format!("{} is there already; --force overwrites it", taken.display())));
    }
    for (path, contents, mode) in &files {
        write(path, contents, *mode)?;
        print_line(&format!("wrote {}", path.display()))?;
    }
    print_line(&format!("next: tombolo config check {}", target.display()))
}

fn write(path: &Path, contents: &str, mode: u32) -> Result<(), Failure> {
    let mut line = zeroize::Zeroizing::new(contents.to_owned());
    if !line.ends_with('\n') {
        line.push('\n');
    }
    atomic_file::write(path, line.as_bytes(), mode)
        .map_err(|error| Failure::runtime(format!("cannot write {}", path.display()), error))
}
