//! NVMe reservations, if the kernel in the guest offers them. Run by `tests/run guest`.

use ccd_tests::guest::site::Folders;
use ccd_tests::guest::{Machine, Recipe};

/// The first kernel whose NVMe target knows reservations.
const FIRST: (u32, u32) = (6, 13);

#[test]
fn nvme_reservations_are_offered_from_kernel_6_13_on() {
    let folders = Folders::make("nvme");
    let recipe = Recipe {
        name: "nvme",
        memory_mib: 320,
        disks: Vec::new(),
        cards: Vec::new(),
    };
    let guest = Machine::start(recipe, &folders.image, folders.sockets.path(), &folders.logs);
    guest.wait_for_boot(0);
    let kernel = guest.kernel();
    let mut numbers = kernel
        .split(['.', '-'])
        .map_while(|word| word.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let made = guest.run(&["nvme-target"]);
    println!("{kernel}: {}{}", made.out.trim(), made.err.trim());
    if version < FIRST {
        assert_eq!(made.code, 1, "{}{}", made.out, made.err);
        assert!(made.out.contains("no resv_enable"), "{}{}", made.out, made.err);
        println!(
            "{kernel} is older than {}.{}: its NVMe target knows no reservations, so they cannot be tested here",
            FIRST.0, FIRST.1
        );
        return;
    }
    made.done();
}
