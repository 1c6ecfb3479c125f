//! The seeds and findings of `fuzz/corpus` as tests. A finding is a file with the sentence's name, and one line here.

use std::path::Path;

/// Runs a target on each seed that is checked in, and on damaged ones.
fn replay(target: fn(&[u8]), name: &str) {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut seeds = 0;
    for entry in std::fs::read_dir(&directory).unwrap() {
        let path = entry.unwrap().path();
        let is_seed = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("seed-"));
        if is_seed {
            let bytes = std::fs::read(&path).unwrap();
            println!("{}", path.display());
            target(&bytes);
            target(&bytes[..bytes.len() / 2]);
            seeds += 1;
        }
    }
    assert!(seeds > 0, "{} has no seeds", directory.display());
}

/// A test that replays the seeds of a target.
macro_rules! seeds {
    ($($name:ident: $target:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            replay(super::$target, stringify!($target));
        }
    )*};
}

seeds! {
    seeds_of_bus_are_harmless: bus,
    seeds_of_virtqueue_are_harmless: virtqueue,
    seeds_of_config_space_are_harmless: config_space,
    seeds_of_region_info_are_harmless: region_info,
    seeds_of_boot_image_are_harmless: boot_image,
    seeds_of_boot_disk_are_harmless: boot_disk,
    seeds_of_cli_are_harmless: cli,
}

/// A test of an input that broke a promise once: `found!(target, sentence)`, and the input as
/// `fuzz/corpus/TARGET/found-SENTENCE`.
#[allow(unused_macros, reason = "for the next finding")]
macro_rules! found {
    ($target:ident, $name:ident) => {
        #[test]
        fn $name() {
            super::$target(include_bytes!(concat!(
                "../../../fuzz/corpus/",
                stringify!($target),
                "/found-",
                stringify!($name)
            )));
        }
    };
}
