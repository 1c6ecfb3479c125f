#!/bin/bash
# Runs a command on this source tree with Debian's compilers for arm64 and qemu-user: `resources/arm64/run.sh cargo ...`.
#
# Debian's rustc, the arm64 cross-compiler and qemu-user are unpacked below target/arm64 and not installed. The command
# runs in a chroot of them. It sees the sources read-only, at their own path, and has a target directory of its own.
# A first run downloads 400 MB and takes 2 GB of disk. Later runs need no network. To fetch newer packages, delete
# target/arm64. The script fails, and says why, where the machine cannot do this; it never skips anything.
set -euo pipefail

# The suite with a rustc that is new enough, and what builds and runs for arm64. Everything else is a dependency.
suite=trixie
packages=(base-files dash coreutils rustc cargo libstd-rust-dev:arm64 gcc-aarch64-linux-gnu libc6-dev:arm64 qemu-user)

# chroot is an administrator's program, which is not in every user's path.
PATH=$PATH:/usr/sbin:/sbin

say() { echo "arm64: $*" >&2; }
fail() { say "$@"; exit 1; }

[ $# -gt 0 ] || fail "usage: resources/arm64/run.sh COMMAND [ARGUMENT]..."
sources=$(cd "$(dirname "$0")/../.." && pwd -P)
cargo_home=$(realpath -m "${CARGO_HOME:-$HOME/.cargo}")
mkdir -p "${CARGO_TARGET_DIR:-$sources/target}/arm64"
cache=$(cd "${CARGO_TARGET_DIR:-$sources/target}/arm64" && pwd -P)
tree=$cache/tree

# Root needs a mount namespace only. Another user needs a user namespace too, which some kernels refuse.
namespace=(unshare --mount --propagation private)
[ "$(id -u)" = 0 ] || namespace+=(--map-root-user)

check_machine() {
    [ "$(uname -m)" = x86_64 ] || fail "needs an x86-64 machine, not $(uname -m)"
    local program
    for program in apt-get dpkg-deb unshare flock xz cargo; do
        command -v "$program" >/dev/null || fail "needs \`$program\`, of a Debian machine with Rust"
    done
    "${namespace[@]}" chroot / true 2>/dev/null ||
        fail "cannot chroot in a new mount namespace: run it as root, or allow user namespaces"
}

# The Debian mirror among the machine's own package sources: the one that has the updates of the machine's release.
mirror() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-unknown}")
    apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' |
        awk -v updates="$codename-updates" '$1 == updates { print $2; exit }'
}

# The machine's proxies and other settings of apt stay in force; its sources, preferences and packages do not.
write_apt_configuration() {
    local uri suffix keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    uri=$(mirror)
    [ -n "$uri" ] || fail "the package sources of this machine name no Debian mirror"
    mkdir -p "$cache"/apt/{lists,archives}/partial
    : >"$cache/apt/status"
    for suffix in "" -updates -backports; do
        echo "deb [signed-by=$keyring] $uri $suite$suffix main"
    done >"$cache/apt/sources.list"
    cat >"$cache/apt/apt.conf" <<END
Dir::Etc::sourcelist "$cache/apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$cache/apt";
Dir::State::status "$cache/apt/status";
Dir::Cache "$cache/apt";
APT::Architecture "amd64";
APT::Architectures { "amd64"; "arm64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
END
}

# apt resolves the dependencies as for an empty system. No package is configured: none of these programs needs it.
provision() {
    local apt=(apt-get -c "$cache/apt/apt.conf" -q -y -o Dpkg::Use-Pty=0) wanted="$suite ${packages[*]}"
    [ "$(cat "$cache/complete" 2>/dev/null)" != "$wanted" ] || return 0
    rm -rf "$cache/complete" "$tree"
    say "reading the package lists of the machine's Debian mirror"
    write_apt_configuration
    "${apt[@]}" update >"$cache/apt/log" 2>&1 || { cat "$cache/apt/log" >&2; fail "apt-get update failed"; }
    say "downloading ${packages[*]} (400 MB)"
    "${apt[@]}" --no-install-recommends --download-only -t "$suite-backports" install "${packages[@]}" \
        >"$cache/apt/log" 2>&1 || { tail -n 20 "$cache/apt/log" >&2; fail "the packages could not be fetched"; }
    say "unpacking"
    mkdir "$tree"
    # base-files goes first: it has the links /bin, /lib and /sbin.
    dpkg-deb -x "$cache"/apt/archives/base-files_*.deb "$tree"
    printf '%s\0' "$cache"/apt/archives/*.deb | xargs -0 -P 2 -I '{}' dpkg-deb -x '{}' "$tree"
    ln -s gcc "$tree/usr/bin/cc"
    rm -rf "$cache/apt"
    echo "$wanted" >"$cache/complete"
}

# Runs in the new namespace.
enter() {
    local directory
    for directory in proc sys dev; do
        mount --rbind "/$directory" "$tree/$directory"
    done
    mkdir -p "$tree$sources" "$tree$cargo_home" "$tree/target" "$cache/target"
    mount --bind "$sources" "$tree$sources"
    mount -o remount,bind,ro "$tree$sources"
    mount --bind "$cargo_home" "$tree$cargo_home"
    mount --bind "$cache/target" "$tree/target"
    exec chroot "$tree" /usr/bin/env -i -C "$sources" PATH=/usr/bin HOME=/root TERM="${TERM:-dumb}" \
        CARGO_HOME="$cargo_home" CARGO_TARGET_DIR=/target CARGO_NET_OFFLINE=true RUSTC_WRAPPER= RUST_BACKTRACE=1 \
        CARGO_BUILD_TARGET=aarch64-unknown-linux-gnu CARGO_PROFILE_TEST_DEBUG=line-tables-only CARGO_PROFILE_TEST_OPT_LEVEL=1 \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
        CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /" "$@"
}

check_machine
exec 9>"$cache/lock"
flock -n 9 || { say "waiting for another run"; flock 9; }
provision
# The machine's cargo fetches the crates, with its own settings: the chroot needs no network.
(cd "$sources" && cargo fetch --locked --quiet)
export tree sources cache cargo_home
export -f enter
exec "${namespace[@]}" bash -euc 'enter "$@"' enter "$@"
