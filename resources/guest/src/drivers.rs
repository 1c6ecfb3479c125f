//! Which modules of a kernel drive a device: its modalias looked up in `modules.alias`, as modprobe does.

use std::fs;

use lab::{At, Kernel};

use crate::error::Result;

/// The modules for a device with this modalias (`/sys/bus/pci/devices/*/modalias`). There may be none, or several.
pub(crate) fn of(kernel: &Kernel, modalias: &str) -> Result<Vec<String>> {
    let path = kernel.modules_dir.join("modules.alias");
    let aliases = fs::read_to_string(&path).at("read", &path)?;
    Ok(find(&aliases, modalias.trim()))
}

fn find(aliases: &str, modalias: &str) -> Vec<String> {
    let mut modules: Vec<String> = aliases
        .lines()
        .filter_map(|line| line.strip_prefix("alias ")?.rsplit_once(' '))
        .filter(|(pattern, _)| matches(pattern, modalias))
        .map(|(_, module)| module.to_owned())
        .collect();
    modules.sort();
    modules.dedup();
    modules
}

/// Whether a pattern, in which `*` stands for anything, is this text. Patterns of PCI devices have nothing else.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == text };
    let Some(rest) = text.strip_prefix(head) else { return false };
    rest.char_indices()
        .map(|(at, _)| at)
        .chain([rest.len()])
        .any(|at| matches(tail, rest.get(at..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_finds_its_drivers_by_identity_and_by_class() {
        let aliases = "# Aliases\nalias pci:v00008086d000010C9sv*sd*bc*sc*i* igb\n\
                       alias pci:v*d*sv*sd*bc01sc08i02* nvme\nalias pci:v00008086d000010C9sv*sd*bc*sc*i* igb\n";
        let igb = "pci:v00008086d000010C9sv00008086sd0000A04Cbc02sc00i00\n";
        assert_eq!(find(aliases, igb.trim()), ["igb"]);
        assert_eq!(find(aliases, "pci:v00001B36d00000010sv00001AF4sd00001100bc01sc08i02"), ["nvme"]);
        assert!(find(aliases, "pci:v00001B36d00000005sv00001AF4sd00001100bc00scFFi00").is_empty());
    }
}
