//! Gives the library its soname. The number is that of the interface (`ccd.h`), not of the release.

/// Raised by whatever breaks a program that was built before: a call or a constant gone or changed, a structure laid out otherwise.
const INTERFACE: u32 = 0;

fn main() {
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libccd.so.{INTERFACE}");
    println!("cargo::rustc-env=CCD_INTERFACE={INTERFACE}");
    println!("cargo::rerun-if-changed=build.rs");
}
