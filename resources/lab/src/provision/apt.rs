//! A private apt: the machine's mirror, with the suites that the lab needs, and lists and caches of its own.
//!
//! The system's package sources and preferences are neither used nor changed. What is *installed* is of course
//! the system's, and only root may add to it; downloading and extracting work for every user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::mirror::{self, Repository};
use super::process;
use crate::cache::Cache;
use crate::error::{At, Result};

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// How the lines of apt begin that say how far it is, or what is wrong.
const PROGRESS: &[&str] = &["Get:", "Fetched ", "Setting up ", "W: ", "E: "];

/// apt with its own configuration.
#[derive(Debug)]
pub(crate) struct Apt {
    config: PathBuf,
    downloads: PathBuf,
    codename: String,
    sources: PathBuf,
}

/// One package in one version.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
}

/// A package that another one depends on, and the version where only one will do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    exact: Option<String>,
}

impl Apt {
    /// Writes the private configuration and fetches the package lists.
    pub(crate) fn new(cache: &Cache) -> Result<Self> {
        let dir = cache.dir("apt")?;
        for sub in ["apt/lists/partial", "apt/archives/partial", "apt/downloads"] {
            cache.dir(sub)?;
        }
        let codename = mirror::codename()?;
        let printed = process::text(
            Command::new("apt-get")
                .args(["update", "--print-uris"])
                .arg("-o")
                .arg(format!("Dir::State::Lists={}", dir.join("lists").display())),
        )?;
        let own = mirror::repositories(&printed);
        let uri = mirror::debian_mirror(&own, &codename)?;
        let sources = dir.join("sources.list");
        fs::write(&sources, sources_list(&uri, &own, &codename)).at("write", &sources)?;
        let config = dir.join("apt.conf");
        fs::write(&config, configuration(&dir)).at("write", &config)?;
        let apt = Self { config, downloads: dir.join("downloads"), codename, sources };
        process::output(apt.command("apt-get").arg("update"))?;
        Ok(apt)
    }

    /// The lines of the package sources that name Debian 12.
    pub(crate) fn bookworm(&self) -> Result<String> {
        let text = fs::read_to_string(&self.sources).at("read", &self.sources)?;
        Ok(text.lines().filter(|line| line.contains(" bookworm")).map(|line| format!("{line}\n")).collect())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(&self.config).env("DEBIAN_FRONTEND", "noninteractive").env("LC_ALL", "C.UTF-8");
        command
    }

    /// The packages that any version of a metapackage depends on with an exact version.
    pub(crate) fn exact_dependencies(&self, metapackage: &str) -> Result<Vec<Package>> {
        let shown = process::text(self.command("apt-cache").args(["show", metapackage]))?;
        Ok(shown.lines().filter_map(|line| line.strip_prefix("Depends: ")).flat_map(parse_exact).collect())
    }

    /// The packages that a package depends on, first alternatives only.
    pub(crate) fn dependencies(&self, package: &Package) -> Result<Vec<Dependency>> {
        let shown = process::text(
            self.command("apt-cache").arg("show").arg(format!("{}={}", package.name, package.version)),
        )?;
        let depends = shown.lines().find_map(|line| line.strip_prefix("Depends: ")).unwrap_or_default();
        Ok(depends.split(',').filter_map(Dependency::parse).collect())
    }

    /// Downloads packages (`name` or `name=version`) and extracts them below a directory, without installing them.
    pub(crate) fn extract(&self, packages: &[String], into: &Path) -> Result<()> {
        let downloads = self.downloads.join(into.file_name().unwrap_or_default());
        fs::create_dir_all(&downloads).at("create", &downloads)?;
        let mut download = self.command("apt-get");
        process::shown(download.arg("-q").arg("download").args(packages).current_dir(&downloads), PROGRESS)?;
        for entry in fs::read_dir(&downloads).at("read", &downloads)? {
            let archive = entry.at("read", &downloads)?.path();
            process::output(Command::new("dpkg").arg("-x").arg(&archive).arg(into))?;
        }
        fs::remove_dir_all(&downloads).at("remove", &downloads)
    }

    /// Installs packages. Only root can.
    pub(crate) fn install(&self, packages: &[String]) -> Result<()> {
        let mut command = self.command("apt-get");
        command.args([
            "-q",
            "-y",
            "--no-install-recommends",
            "-o",
            "DPkg::Lock::Timeout=300",
            "-o",
            "Dpkg::Use-Pty=0",
        ]);
        if self.codename == "bookworm" {
            command.args(["-t", "bookworm-backports"]);
        }
        process::shown(command.arg("install").args(packages), PROGRESS)?;
        process::output(self.command("apt-get").arg("clean")).map(drop)
    }
}

/// The machine's own Debian suites, so that versions fit what is installed, and the two the kernels come from.
fn sources_list(mirror: &str, own: &[Repository], codename: &str) -> String {
    let mut wanted: Vec<Repository> =
        own.iter().filter(|r| r.suite.starts_with(codename) && r.uri.contains("debian")).cloned().collect();
    for suite in ["bookworm", "bookworm-backports"] {
        wanted.push(Repository { uri: mirror.to_owned(), suite: suite.to_owned() });
    }
    let mut lines: Vec<String> =
        wanted.iter().map(|r| format!("deb [signed-by={KEYRING}] {} {} main\n", r.uri, r.suite)).collect();
    lines.sort();
    lines.dedup();
    lines.concat()
}

fn configuration(dir: &Path) -> String {
    let dir = dir.display();
    format!(
        "Dir::Etc::sourcelist \"{dir}/sources.list\";\n\
         Dir::Etc::sourceparts \"/dev/null\";\n\
         Dir::Etc::preferences \"/dev/null\";\n\
         Dir::Etc::preferencesparts \"/dev/null\";\n\
         Dir::State::lists \"{dir}/lists\";\n\
         Dir::Cache \"{dir}\";\n\
         Dir::Cache::archives \"{dir}/archives\";\n\
         Dir::Cache::pkgcache \"{dir}/pkgcache.bin\";\n\
         Dir::Cache::srcpkgcache \"{dir}/srcpkgcache.bin\";\n\
         APT::Sandbox::User \"\";\n\
         Acquire::Languages \"none\";\n\
         Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n\
         Acquire::Retries \"3\";\n"
    )
}

impl Dependency {
    fn parse(text: &str) -> Option<Self> {
        let name = text.split_whitespace().next()?.to_owned();
        let exact = parse_exact(text).pop().map(|package| package.version);
        Some(Self { name, exact })
    }

    /// What apt is asked for: the exact version, where only that one will do.
    pub(crate) fn request(&self) -> String {
        self.exact.as_ref().map_or_else(|| self.name.clone(), |version| format!("{}={version}", self.name))
    }
}

/// `a (= 1), b` names one exact dependency: a in version 1.
fn parse_exact(depends: &str) -> Vec<Package> {
    depends
        .split(',')
        .filter_map(|d| d.trim().split_once(" (= "))
        .map(|(name, version)| Package {
            name: name.to_owned(),
            version: version.trim_end_matches(')').to_owned(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_dependencies_are_read() {
        let one = Package { name: "linux-image-6.1.0-1-amd64".into(), version: "6.1.5-1".into() };
        assert_eq!(parse_exact("linux-image-6.1.0-1-amd64 (= 6.1.5-1), kmod, libc6 (>= 2)"), [one]);
    }

    #[test]
    fn only_an_exact_dependency_is_asked_for_by_version() {
        let request = |text| Dependency::parse(text).unwrap().request();
        assert_eq!(request(" headers-common (= 6.1.192-2)"), "headers-common=6.1.192-2");
        assert_eq!(request(" linux-kbuild-6.1 (>= 6.1.192-2)"), "linux-kbuild-6.1");
        assert_eq!(request("gcc-12 | gcc-13"), "gcc-12");
    }

    #[test]
    fn sources_have_the_machines_suites_once_and_ours() {
        let uri = "http://mirror.example/debian";
        let own = ["trixie", "trixie-updates"].map(|s| Repository { uri: uri.into(), suite: s.into() });
        let list = sources_list(uri, &own, "trixie");
        for suite in ["trixie", "trixie-updates", "bookworm", "bookworm-backports"] {
            let line = format!("{uri} {suite} main\n");
            assert_eq!(list.matches(&line).count(), 1, "{suite} in {list}");
        }
        let own = [Repository { uri: uri.into(), suite: "bookworm".into() }];
        assert_eq!(sources_list(uri, &own, "bookworm").lines().count(), 2);
    }
}
