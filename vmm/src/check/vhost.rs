//! Whether the host's kernel can move packets of network and socket devices (vhost=on), from `/dev`.

use super::{Finding, Grade, Roots};

/// The finding, the file in `/dev`, the module, and what goes without it.
const DEVICES: [(&str, &str, &str, &str); 2] = [
    ("vhost-net", "vhost-net", "vhost_net", "--net with vhost=on does not work"),
    ("vhost-vsock", "vhost-vsock", "vhost_vsock", "--vsock with vhost=on does not work"),
];

pub(super) fn findings(roots: &Roots) -> Vec<Finding> {
    let finding = |(name, file, module, otherwise): (&'static str, &str, &str, &str)| {
        if roots.dev.join(file).exists() {
            return Finding::good(name, "there");
        }
        let detail = format!("/dev/{file} is not there: {otherwise}");
        Finding::missing(name, Grade::Lesser, detail, format!("modprobe {module}"))
    };
    DEVICES.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_device_is_a_note_that_names_its_module() {
        let dev = std::env::temp_dir().join(format!("vmm-check-vhost-{}", std::process::id()));
        std::fs::create_dir(&dev).unwrap();
        std::fs::write(dev.join("vhost-net"), "").unwrap();
        let found = findings(&Roots { sys: "/none".into(), dev: dev.clone() });
        std::fs::remove_dir_all(dev).unwrap();
        assert_eq!((found[0].grade, found[1].grade), (Grade::Good, Grade::Lesser));
        assert_eq!(found[1].remedy.as_deref(), Some("modprobe vhost_vsock"));
    }
}
