//! Which mirror to fetch from: the one the machine's own package sources name.

use std::fs;

use crate::error::{At, Error, Result};

/// A Debian repository of the machine: where, and which suite.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Repository {
    pub(crate) uri: String,
    pub(crate) suite: String,
}

/// Reads the repositories from the output of `apt-get update --print-uris`.
pub(crate) fn repositories(printed: &str) -> Vec<Repository> {
    printed
        .lines()
        .filter_map(|line| line.strip_prefix('\'')?.split_once('\''))
        .filter_map(|(uri, _)| uri.strip_suffix("/InRelease")?.split_once("/dists/"))
        .map(|(uri, suite)| Repository { uri: uri.to_owned(), suite: suite.to_owned() })
        .collect()
}

/// The Debian mirror among them. Others may call a suite by the same code name, but do not have its updates.
pub(crate) fn debian_mirror(repositories: &[Repository], codename: &str) -> Result<String> {
    let has = |uri: &str, suite: &str| repositories.iter().any(|r| r.uri == uri && r.suite == suite);
    let updates = format!("{codename}-updates");
    let mut candidates = repositories.iter().filter(|r| r.suite == codename);
    let first = candidates.clone().next();
    candidates
        .find(|r| has(&r.uri, &updates))
        .or(first)
        .map(|r| r.uri.clone())
        .ok_or_else(|| Error::NoMirror(codename.to_owned()))
}

/// The code name of the running system, such as `bookworm`.
pub(crate) fn codename() -> Result<String> {
    let path = "/etc/os-release";
    let text = fs::read_to_string(path).at("read", path)?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.unwrap_or("unknown").trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRINTED: &str = "'http://vendor.example/bookworm-tools/dists/bookworm/InRelease' a 0 \n\
        'http://mirror.example/debian/dists/bookworm/InRelease' b 0 \n\
        'http://mirror.example/debian/dists/bookworm-updates/InRelease' c 0 \n\
        'http://mirror.example/debian/dists/bookworm/main/binary-amd64/Packages.xz' d 0 \n";

    #[test]
    fn the_mirror_is_the_one_with_updates() {
        let repositories = repositories(PRINTED);
        assert_eq!(repositories.len(), 3);
        assert_eq!(debian_mirror(&repositories, "bookworm").unwrap(), "http://mirror.example/debian");
    }

    #[test]
    fn no_mirror_is_an_error_that_names_the_suite() {
        let error = debian_mirror(&repositories(PRINTED), "noble").unwrap_err();
        assert!(error.to_string().contains("`noble`"), "{error}");
    }
}
