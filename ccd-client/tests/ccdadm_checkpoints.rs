//! Checkpoints with a name, as users make, list, restore and drop them.

mod support;

use std::os::unix::fs::PermissionsExt;
use support::fake_with_rows;

#[test]
fn a_checkpoint_with_a_name_is_listed_restored_and_dropped() {
    let fake = fake_with_rows();
    fake.ccdadm(&["checkpoints"]).expect(1);
    fake.ccdadm(&["checkpoint", "--name", "before"])
        .expect(0)
        .says("before");
    fake.ccdadm(&["checkpoint", "--name", "before"])
        .expect_error(108, "CCD-1014", "before.ccd exists");
    fake.ccdadm(&["checkpoint", "--name", "before", "--yes"])
        .expect(0);
    fake.ccdadm(&["checkpoint"]).expect(0).says("at-20");
    let folder = fake.folder.path().join("checkpoints");
    let mode = std::fs::metadata(&folder)
        .expect("it is there")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700);
    fake.ccdadm(&["checkpoints"])
        .expect(0)
        .says("before")
        .says("CHECKPOINT");

    fake.ccdadm(&["remove", "--yes", "MY_KEY"]).expect(0);
    fake.ccdadm(&["restore", "--yes", "--checkpoint", "before"])
        .expect(0);
    fake.ccdadm(&["query", "MY_KEY", "clust0"]).expect(0);

    // Neither listing nor dropping needs a daemon.
    fake.stop();
    std::fs::write(folder.join("torn.ccd"), "MY_KEY_fmt:a\n").expect("the folder is ours");
    fake.ccdadm(&["checkpoints"]).expect(0).says("damaged");
    fake.ccdadm(&["checkpoints", "--drop", "before"])
        .expect_error(107, "CCD-1002", "Nobody is there");
    fake.ccdadm(&["checkpoints", "--drop", "before", "--dry-run"])
        .expect(0)
        .says("would be removed");
    fake.ccdadm(&["checkpoints", "--drop", "before", "--yes"])
        .expect(0);
    fake.ccdadm(&["checkpoints", "--drop", "before", "--yes"])
        .expect_error(66, "CCD-1010", "does not exist");
}

#[test]
fn a_wrong_name_is_refused_and_leads_nowhere() {
    let fake = fake_with_rows();
    for name in ["../../etc/passwd", "a/b", "", ".hidden", "a b"] {
        fake.ccdadm(&["checkpoint", "--name", name])
            .expect_error(64, "CCD-1001", "a name is a letter");
        fake.ccdadm(&["restore", "--yes", "--checkpoint", name])
            .expect_error(64, "CCD-1001", "a name is");
        fake.ccdadm(&["checkpoints", "--yes", "--drop", name])
            .expect_error(64, "CCD-1001", "a name is");
    }
    fake.ccdadm(&["checkpoint", "--name", "auto-mine"])
        .expect_error(64, "CCD-1001", "automatic");
    fake.ccdadm(&["checkpoint", "--name", "x", "file"])
        .expect(64)
        .says("cannot be used with");
    fake.ccdadm(&["restore", "--yes"]).expect(64).says("FILE");
    fake.ccdadm(&["restore", "--yes", "--checkpoint", "none"])
        .expect_error(66, "CCD-1010", "none.ccd");
}
