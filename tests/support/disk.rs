//! Real file systems that can be filled, cut off and mounted again, and a shim that makes system
//! calls fail. Where this machine does not allow them, a test says so and does nothing.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says why a test does nothing here.
#[expect(clippy::print_stderr, reason = "a test that was skipped must be seen")]
pub(crate) fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| format!("{program} does not run: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program} {}: {}", args.join(" "), said.trim()))
}

/// A mounted file system; unmounted when dropped.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Where it is mounted.
    pub(crate) path: PathBuf,
    image: Option<PathBuf>,
}

impl Disk {
    /// A file system in memory of this many MiB; `None`, with the reason printed, where it cannot be
    /// mounted.
    pub(crate) fn small(dir: &Path, mib: u32) -> Option<Self> {
        let path = dir.join("small");
        std::fs::create_dir(&path).expect("a mount point");
        let size = format!("size={mib}m");
        let mounted =
            run("mount", &["-t", "tmpfs", "-o", &size, "tmpfs", &path.display().to_string()]);
        match mounted {
            Ok(()) => Some(Self { path, image: None }),
            Err(why) => {
                skipped(&format!("no tmpfs can be mounted ({why})"));
                None
            }
        }
    }

    /// ext4 in a file of this many MiB; `None`, with the reason printed, where it cannot be had.
    pub(crate) fn ext4(dir: &Path, mib: u64) -> Option<Self> {
        let (path, image) = (dir.join("disk"), dir.join("disk.img"));
        std::fs::create_dir(&path).expect("a mount point");
        let file = File::create(&image).expect("an image");
        file.set_len(mib << 20).expect("a sparse image");
        drop(file);
        let disk = Self { path, image: Some(image) };
        let made = run("mkfs.ext4", &["-q", "-F", &disk.image_name()]).and_then(|()| disk.attach());
        match made {
            Ok(()) => Some(disk),
            Err(why) => {
                skipped(&format!("no ext4 can be mounted on a loop device ({why})"));
                None
            }
        }
    }

    fn image_name(&self) -> String {
        self.image.as_deref().unwrap_or(Path::new("none")).display().to_string()
    }

    fn attach(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", &self.image_name(), &self.path.display().to_string()])
    }

    /// Cuts the power: what was not synced is gone, and every further write fails.
    pub(crate) fn cut_power(&self) {
        // linux/ext4.h: _IOR('X', 125, __u32) and EXT4_GOING_FLAGS_NOLOGFLUSH.
        const SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
        let without_flush: u32 = 2;
        let mount = File::open(&self.path).expect("the mount point");
        // SAFETY: the descriptor is open, and the kernel reads four bytes behind the pointer, which
        // lives until the call returns.
        #[expect(unsafe_code, reason = "no other way to cut a file system off from its disk")]
        let result = unsafe { libc::ioctl(mount.as_raw_fd(), SHUTDOWN, &raw const without_flush) };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    }

    /// Unmounts it, and mounts it again from what reached the image.
    pub(crate) fn mount_again(&self) {
        super::eventually("it is unmounted", || run("umount", &[&self.path.display().to_string()]));
        self.attach().expect("mounted again");
    }

    /// Mounts it `ro` or `rw`.
    pub(crate) fn remount(&self, how: &str) {
        let option = format!("remount,{how}");
        run("mount", &["-o", &option, &self.path.display().to_string()]).expect("remounted");
    }

    /// Fills it to the last block; the file to remove.
    pub(crate) fn fill(&self) -> PathBuf {
        self.fill_but(0)
    }

    /// Fills it up to about this many bytes.
    pub(crate) fn fill_but(&self, bytes: u64) -> PathBuf {
        use std::io::Write as _;
        let path = self.path.join("filler");
        let mut file = File::create(&path).expect("a filler");
        let mut written = 0_u64;
        for size in [1 << 20, 1 << 12] {
            let block = vec![0x55_u8; size];
            while file.write_all(&block).is_ok() {
                written += size as u64;
            }
        }
        file.set_len(written.saturating_sub(bytes)).expect("cut");
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let path = self.path.display().to_string();
        if run("umount", &[&path]).is_err() {
            // A process that a failed test left behind still holds it.
            let _ = run("umount", &["-l", &path]);
        }
    }
}

/// A library that makes writes or syncs of files below `raft/` fail on order.
#[derive(Debug)]
pub(crate) struct Shim {
    library: PathBuf,
    order: PathBuf,
}

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

/* The order file holds a letter (s: sync, w: write) and an error number. */
static int ordered(int fd, char what) {
    const char *path = getenv("TEST_FAULT");
    if (!path) return 0;
    int file = open(path, O_RDONLY);
    if (file < 0) return 0;
    char text[16] = {0};
    ssize_t got = read(file, text, sizeof text - 1);
    close(file);
    if (got < 2 || text[0] != what) return 0;
    char link[64], name[512] = {0};
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    if (readlink(link, name, sizeof name - 1) < 0 || !strstr(name, "/raft/")) return 0;
    return atoi(text + 1);
}

#define FAIL(what) do { int e = ordered(fd, what); if (e) { errno = e; return -1; } } while (0)

int fdatasync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fdatasync");
    FAIL('s');
    return real(fd);
}
int fsync(int fd) {
    static int (*real)(int);
    if (!real) real = dlsym(RTLD_NEXT, "fsync");
    FAIL('s');
    return real(fd);
}
ssize_t pwrite64(int fd, const void *bytes, size_t size, off64_t at) {
    static ssize_t (*real)(int, const void *, size_t, off64_t);
    if (!real) real = dlsym(RTLD_NEXT, "pwrite64");
    FAIL('w');
    return real(fd, bytes, size, at);
}
ssize_t write(int fd, const void *bytes, size_t size) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real) real = dlsym(RTLD_NEXT, "write");
    FAIL('w');
    return real(fd, bytes, size);
}
"#;

impl Shim {
    /// Builds it; `None`, with the reason printed, without a C compiler.
    pub(crate) fn build(dir: &Path) -> Option<Self> {
        let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
        std::fs::write(&source, SHIM).expect("written");
        let built = run(
            "cc",
            &[
                "-shared",
                "-fPIC",
                "-o",
                &library.display().to_string(),
                &source.display().to_string(),
                "-ldl",
            ],
        );
        match built {
            Ok(()) => Some(Self { library, order: dir.join("order") }),
            Err(why) => {
                skipped(&format!("no shim can be built ({why})"));
                None
            }
        }
    }

    /// What a process needs in its environment to be subject to it.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        vec![
            ("LD_PRELOAD".to_owned(), self.library.display().to_string()),
            ("TEST_FAULT".to_owned(), self.order.display().to_string()),
        ]
    }

    /// From now on: `s` syncs, `w` writes fail with this error number.
    pub(crate) fn order(&self, what: char, errno: i32) {
        let beside = self.order.with_extension("new");
        std::fs::write(&beside, format!("{what}{errno}")).expect("written");
        std::fs::rename(&beside, &self.order).expect("in force");
    }

    /// All is well again.
    pub(crate) fn heal(&self) {
        std::fs::remove_file(&self.order).expect("there was an order");
    }
}
