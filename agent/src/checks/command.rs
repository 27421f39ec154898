//! Runs a program: argument vector, no shell, a process group of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use model::duration::GoDuration;
use model::row::Status;
use tokio::io::AsyncReadExt as _;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::Finding;
use super::output::Tail;

/// How long output is still read after the program ended: a process that it left behind may hold
/// the pipe open for ever.
const DRAIN: Duration = Duration::from_millis(200);

/// Passing for exit code 0, warning for 1, else critical. After the time limit the whole process
/// group is killed, and the result counts at once.
pub(super) async fn probe(argv: &[String], timeout: Duration, limit: usize) -> Finding {
    let (mut group, mut output) = match start(argv) {
        Ok(started) => started,
        Err(cause) => {
            let program = argv.first().map_or("", String::as_str);
            return Finding::new(Status::Critical, format!("cannot run {program}: {cause}"));
        }
    };
    let mut tail = Tail::new(limit);
    let ended = tokio::time::timeout(timeout, wait(&mut group, &mut output, &mut tail)).await;
    match ended {
        Ok(Ok(exit)) => {
            let status = match exit.code() {
                Some(0) => Status::Passing,
                Some(1) => Status::Warning,
                _ => Status::Critical,
            };
            Finding::new(status, tail.into_text())
        }
        Ok(Err(cause)) => Finding::new(Status::Critical, cause.to_string()),
        Err(_) => {
            group.kill();
            // Reaped here, so that never two runs of a check are there at once.
            let _ = group.0.wait().await;
            let limit_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
            let mut text =
                format!("Timed out ({}) running check", GoDuration::from_millis(limit_ms));
            let said = tail.into_text();
            if !said.is_empty() {
                text.push_str("\n\n");
                text.push_str(&said);
            }
            Finding { status: Status::Critical, output: text, final_word: true }
        }
    }
}

/// Reads until the program has ended and its output with it.
async fn wait(
    group: &mut Group,
    output: &mut pipe::Receiver,
    tail: &mut Tail,
) -> io::Result<ExitStatus> {
    let mut open = true;
    let exit = loop {
        let mut block = [0; 4096];
        tokio::select! {
            biased;
            read = output.read(&mut block), if open => match read? {
                0 => open = false,
                length => tail.push(&block[..length]),
            },
            exit = group.0.wait() => break exit?,
        }
    };
    let rest = async {
        let mut block = [0; 4096];
        loop {
            match output.read(&mut block).await? {
                0 => return Ok::<(), io::Error>(()),
                length => tail.push(&block[..length]),
            }
        }
    };
    if open {
        let _ = tokio::time::timeout(DRAIN, rest).await;
    }
    Ok(exit)
}

fn start(argv: &[String]) -> io::Result<(Group, pipe::Receiver)> {
    let (program, arguments) = argv
        .split_first()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no program is named"))?;
    let (reader, writer) = io::pipe()?;
    let errors = writer.try_clone()?;
    // The command holds the writing ends; it goes before the first read, so that the end is seen.
    let child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(writer)
        .stderr(errors)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    Ok((Group(child), pipe::Receiver::from_owned_fd(OwnedFd::from(reader))?))
}

/// A program that leads a process group; the group is killed when this is dropped before the
/// program has ended.
struct Group(Child);

impl Group {
    /// Kills the whole group, if its leader has not been reaped.
    fn kill(&self) {
        let Some(leader) = self.0.id().and_then(|id| i32::try_from(id).ok()) else { return };
        #[expect(unsafe_code, reason = "the standard library kills processes, not groups")]
        // SAFETY: kill(2) takes two integers and touches no memory of ours. The group is the one
        // that we made: `id` is `Some` only until the leader is reaped, and until then its number
        // cannot be given to another.
        unsafe {
            libc::kill(-leader, libc::SIGKILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sh(script: &str, timeout: Duration, limit: usize) -> Finding {
        probe(&["/bin/sh".into(), "-c".into(), script.into()], timeout, limit).await
    }

    const LONG: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn exit_codes_are_statuses_and_both_outputs_are_merged_in_order() {
        for (script, status, output) in [
            ("echo out; echo err >&2; echo more", Status::Passing, "out\nerr\nmore\n"),
            ("echo careful; exit 1", Status::Warning, "careful\n"),
            ("exit 2", Status::Critical, ""),
            ("kill -9 $$", Status::Critical, ""),
        ] {
            assert_eq!(
                sh(script, LONG, 4096).await,
                Finding::new(status, output.into()),
                "{script}"
            );
        }
    }

    #[tokio::test]
    async fn the_last_bytes_are_kept() {
        let found = sh("printf 0123456789", LONG, 4).await;
        assert_eq!(found.output, "Captured 4 of 10 bytes\n...\n6789");
    }

    #[tokio::test]
    async fn no_shell_reads_the_arguments() {
        let found = probe(&["/bin/echo".into(), "$HOME;".into()], LONG, 4096).await;
        assert_eq!(found, Finding::new(Status::Passing, "$HOME;\n".into()));
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_critical() {
        let found = probe(&["/no/such/program".into()], LONG, 4096).await;
        assert_eq!(found.status, Status::Critical);
        assert!(found.output.starts_with("cannot run /no/such/program: "), "{}", found.output);
        assert_eq!(probe(&[], LONG, 4096).await.status, Status::Critical);
    }

    #[tokio::test]
    async fn a_timeout_kills_the_group_and_counts_at_once() {
        let script = "echo started; sleep 1000 & echo $! ; wait";
        let found = sh(script, Duration::from_millis(300), 4096).await;
        assert!(found.final_word);
        assert_eq!(found.status, Status::Critical);
        let rest = found.output.strip_prefix("Timed out (300ms) running check\n\nstarted\n");
        let grandchild = rest.and_then(|rest| rest.trim().parse::<u32>().ok()).expect("its number");
        // The grandchild is gone, or a zombie that init has not reaped yet.
        for _ in 0..500 {
            let stat = std::fs::read_to_string(format!("/proc/{grandchild}/stat"));
            if stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z ")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the grandchild {grandchild} still runs");
    }

    #[tokio::test]
    async fn a_process_left_behind_does_not_hold_the_result_up() {
        let found = sh("sleep 5 & echo done", Duration::from_secs(4), 4096).await;
        assert_eq!(found, Finding::new(Status::Passing, "done\n".into()));
    }
}
