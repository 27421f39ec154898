//! `snapshot_schedule`: archives that the leader writes by itself.

use std::path::PathBuf;
use std::time::Duration;

use server::SnapshotSchedule;

use super::tree::Tree;

/// How often at most and at least.
const INTERVAL_MIN: Duration = Duration::from_secs(60);
const INTERVAL_MAX: Duration = Duration::from_secs(31 * 24 * 3_600);
/// Archives that are kept when nothing is said, and at most.
const RETAIN_DEFAULT: i64 = 30;
const RETAIN_MAX: i64 = 10_000;

/// The block, checked; `None`: off.
pub(super) fn read(tree: &Tree, server: bool) -> Result<Option<SnapshotSchedule>, String> {
    let interval = tree.duration("snapshot_schedule.interval");
    let path = tree.text("snapshot_schedule.path").filter(|path| !path.is_empty());
    let retain = tree.int("snapshot_schedule.retain");
    if interval.is_none() && path.is_none() && retain.is_none() {
        return Ok(None);
    }
    if !server {
        return Err("'snapshot_schedule' requires 'server = true'".to_owned());
    }
    let (Some(interval), Some(path)) = (interval, path) else {
        return Err(
            "snapshot_schedule needs both interval, such as \"1h\", and path, a directory \
             for the archives"
                .to_owned(),
        );
    };
    if !(INTERVAL_MIN..=INTERVAL_MAX).contains(&interval) {
        return Err(format!(
            "snapshot_schedule.interval {interval:?} must be between 1m and 744h (31 days)"
        ));
    }
    let retain = retain.unwrap_or(RETAIN_DEFAULT);
    let retain =
        usize::try_from(retain).ok().filter(|_| (1..=RETAIN_MAX).contains(&retain)).ok_or_else(
            || format!("snapshot_schedule.retain {retain} must be between 1 and {RETAIN_MAX}"),
        )?;
    Ok(Some(SnapshotSchedule { interval, retain, path: PathBuf::from(path) }))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn given(block: Value, server: bool) -> Result<Option<SnapshotSchedule>, String> {
        let mut tree = Tree::default();
        tree.merge_object("a.json", &json!({"snapshot_schedule": block}))?;
        read(&tree, server)
    }

    #[test]
    fn it_is_off_until_interval_and_path_are_given() {
        assert_eq!(read(&Tree::default(), true), Ok(None));
        let schedule = given(json!({"interval": "1h", "path": "/a"}), true);
        let expected = SnapshotSchedule {
            interval: Duration::from_secs(3_600),
            retain: 30,
            path: PathBuf::from("/a"),
        };
        assert_eq!(schedule, Ok(Some(expected)));
        let schedule = given(json!({"interval": "1m", "path": "/a", "retain": 2}), true);
        assert_eq!(schedule.map(|found| found.map(|found| found.retain)), Ok(Some(2)));
    }

    #[test]
    fn mistakes_name_the_setting() {
        for (block, server, said) in [
            (json!({"interval": "1h", "path": "/a"}), false, "requires 'server = true'"),
            (json!({"interval": "1h"}), true, "needs both"),
            (json!({"path": "/a"}), true, "needs both"),
            (json!({"retain": 3}), true, "needs both"),
            (json!({"interval": "59s", "path": "/a"}), true, "interval 59s must be between"),
            (json!({"interval": "745h", "path": "/a"}), true, "must be between 1m and 744h"),
            (json!({"interval": "1h", "path": "/a", "retain": 0}), true, "retain 0 must be"),
            (json!({"interval": "1h", "path": "/a", "retain": -1}), true, "retain -1 must be"),
            (json!({"interval": "1h", "path": "/a", "retain": 10_001}), true, "retain 10001"),
            (json!({"interval": "1h", "path": "/a", "keep": 1}), true, "snapshot_schedule.keep"),
            (json!({"interval": 5, "path": "/a"}), true, "snapshot_schedule.interval"),
        ] {
            let error = given(block, server).expect_err(said);
            assert!(error.contains(said), "{error}");
        }
    }
}
