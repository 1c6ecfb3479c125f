//! The devices of the command line: each checked on the host, and with its address in the guest.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::peers::PeerToPeer;
use super::placement::{self, FunctionKind, Placed};
use super::rom::{RomSource, SIGNATURE};
use super::sysfs::{HostDevice, Sysfs};
use crate::cli::{RomOption, VfioOption};
use crate::error::{Error, Result};
use crate::pci::DeviceFunction;
use crate::pci::bar::LARGEST_ROM;

/// A device to pass through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selected {
    /// The host device.
    pub host: HostDevice,
    /// Its name in the report, if it has one.
    pub id: Option<String>,
    /// Its address in the guest.
    pub place: DeviceFunction,
    /// Its expansion ROM.
    pub rom: RomSource,
    /// Whether other devices reach its BARs by DMA.
    pub peer_to_peer: PeerToPeer,
}

/// Checks the devices of these options, and chooses their addresses in the guest. `others` are the chosen addresses of
/// other devices.
///
/// # Errors
/// [`Error::Input`] for the first problem, with its remedy.
pub fn select(sysfs: &Sysfs, options: &[VfioOption], others: &[DeviceFunction]) -> Result<Vec<Selected>> {
    let input =
        |option: &VfioOption, problem: String| Error::input(format!("--vfio {}", option.device), problem);
    let mut named: BTreeMap<&str, &VfioOption> = BTreeMap::new();
    for option in options {
        let Some(id) = option.id.as_deref() else {
            continue;
        };
        if let Some(other) = named.insert(id, option) {
            return Err(input(
                option,
                format!("id={id} is the name of {}, too; choose another", other.device),
            ));
        }
    }
    let names: Vec<_> = options.iter().map(|option| option.device.as_str()).collect();
    let hosts = sysfs.select(&names)?;
    let functions = hosts.iter().zip(options).map(|(host, option)| Placed {
        host: host.address,
        kind: if sysfs.is_virtual_function(host.address) {
            FunctionKind::Virtual
        } else {
            FunctionKind::Physical
        },
        chosen: option.address,
    });
    let places = placement::place(&functions.collect::<Vec<_>>(), others).map_err(|error| {
        let name = options.get(error.function()).map_or("", |option| &option.device);
        Error::input(format!("--vfio {name}"), error)
    })?;
    let selected = hosts.into_iter().zip(places).zip(options);
    let selected = selected.map(|((host, place), option)| {
        let (id, rom, peer_to_peer) = (option.id.clone(), rom_source(option)?, option.peer_to_peer);
        Ok(Selected { host, id, place, rom, peer_to_peer })
    });
    selected.collect()
}

fn rom_source(option: &VfioOption) -> Result<RomSource> {
    match &option.rom {
        RomOption::Device => Ok(RomSource::Device),
        RomOption::Off => Ok(RomSource::Off),
        RomOption::File(path) => {
            let contents = read_rom(path).map_err(|problem| {
                Error::input(format!("--vfio {},rom={}", option.device, path.display()), problem)
            })?;
            Ok(RomSource::Contents(contents))
        }
    }
}

/// The contents of a ROM file, which is regular, has the signature, and 16 MiB at most.
fn read_rom(path: &Path) -> std::result::Result<Vec<u8>, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".to_owned());
    }
    if metadata.len() > LARGEST_ROM {
        return Err(format!("has {} bytes, and an expansion ROM has 16 MiB at most", metadata.len()));
    }
    let mut contents = Vec::new();
    // The file may grow meanwhile.
    file.take(LARGEST_ROM).read_to_end(&mut contents).map_err(|error| error.to_string())?;
    if contents.starts_with(&SIGNATURE) {
        return Ok(contents);
    }
    Err("is no expansion ROM: it does not start with the bytes 55 AA".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio::sysfs::tests::Host;

    fn host(test: &str) -> Host {
        Host::new(test)
            .device("0000:01:00.0", Some("vfio-pci"), Some(1))
            .device("0000:01:00.1", Some("vfio-pci"), Some(1))
            .device("0000:02:10.0", Some("vfio-pci"), Some(2))
            .device("0000:02:10.1", Some("vfio-pci"), Some(3))
            .virtual_function("0000:02:10.0")
            .virtual_function("0000:02:10.1")
    }

    fn selected(host: &Host, options: &[&str]) -> Result<Vec<Selected>> {
        let options: Vec<VfioOption> = options.iter().map(|option| option.parse().unwrap()).collect();
        select(host.sysfs(), &options, &[])
    }

    #[test]
    fn each_device_has_its_name_and_address_from_the_command_line_alone() {
        let host = host("selected");
        let options = ["02:10.0", "01:00.1", "01:00.0,id=nic,addr=07.0", "02:10.1"];
        let first = selected(&host, &options).unwrap();
        let shown: Vec<_> = first.iter().map(|s| (s.host.address.to_string(), s.place.to_string())).collect();
        let expected = [
            ("0000:02:10.0", "00:01.0"),
            ("0000:01:00.1", "00:07.1"),
            ("0000:01:00.0", "00:07.0"),
            ("0000:02:10.1", "00:02.0"),
        ];
        assert_eq!(shown, expected.map(|(host, place)| (host.to_owned(), place.to_owned())));
        assert_eq!((first[2].id.as_deref(), first[0].id.as_deref()), (Some("nic"), None));
        assert_eq!(selected(&host, &options).unwrap(), first, "the same at the next start");
    }

    #[test]
    fn names_and_addresses_that_clash_are_refused_with_the_argument() {
        let host = host("clash");
        for (options, expected) in [
            (["01:00.0,id=a", "02:10.0,id=a"], ["--vfio 02:10.0: id=a is the name of 01:00.0", "another"]),
            (["01:00.0,addr=05.0", "02:10.0,addr=05.0"], ["--vfio 02:10.0: 00:05.0 is the address", "addr"]),
            (["01:00.0,addr=05.0", "02:10.0,addr=06.1"], ["--vfio 02:10.0: 00:06.1", "no function 0"]),
        ] {
            let error = selected(&host, &options).unwrap_err();
            assert_eq!(error.exit_status(), 2);
            let said = error.to_string();
            assert!(expected.iter().all(|part| said.contains(part)) && !said.contains('\n'), "{said}");
        }
    }

    #[test]
    fn a_rom_file_is_read_and_one_that_is_no_rom_is_named() {
        let host = host("rom");
        let path = std::env::temp_dir().join(format!("vmm-rom-{}", std::process::id()));
        let option = format!("01:00.0,rom={}", path.display());
        let rom = |contents: &[u8]| {
            std::fs::write(&path, contents).unwrap();
            selected(&host, &[&option]).map(|mut selected| selected.remove(0).rom)
        };
        assert_eq!(rom(&[0x55, 0xaa, 1]).unwrap(), RomSource::Contents(vec![0x55, 0xaa, 1]));
        let said = |contents: &[u8]| rom(contents).unwrap_err().to_string();
        for contents in [&[][..], &[0x55], &[0xaa, 0x55, 1]] {
            assert!(
                said(contents).contains(&format!("--vfio {option}: is no expansion ROM")),
                "{contents:?}"
            );
        }
        let large = said(&vec![0x55; (16 << 20) + 1]);
        assert!(large.contains("has 16777217 bytes"), "{large}");
        std::fs::remove_file(&path).unwrap();
        let missing = selected(&host, &[&option]).unwrap_err();
        assert!(missing.to_string().contains("No such file") && missing.exit_status() == 2, "{missing}");
        let directory = selected(&host, &["01:00.0,rom=/"]).unwrap_err().to_string();
        assert!(directory.contains("not a regular file"), "{directory}");
        let sources: Vec<_> =
            selected(&host, &["01:00.0,rom=off", "01:00.1"]).unwrap().into_iter().map(|s| s.rom).collect();
        assert_eq!(sources, [RomSource::Off, RomSource::Device]);
    }

    #[test]
    fn a_device_is_left_out_of_peer_to_peer_by_its_own_option_only() {
        let host = host("peers");
        let peers = selected(&host, &["01:00.0,p2p=off", "01:00.1", "02:10.0,p2p=on"]).unwrap();
        let peers: Vec<_> = peers.into_iter().map(|selected| selected.peer_to_peer).collect();
        assert_eq!(peers, [PeerToPeer::Off, PeerToPeer::On, PeerToPeer::On]);
    }
}
