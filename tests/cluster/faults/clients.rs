//! Who reads and writes meanwhile, and what they saw.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::register::{Action, Operation};
use crate::support::http::{Answer, request};
use crate::support::now;
use crate::support::process::standing;

use super::Dice;

/// How long a client waits for an answer; then it does not know the outcome.
const PATIENCE: Duration = Duration::from_secs(3);

/// Registers in use at one time.
const REGISTERS: u64 = 3;

/// How long a set of registers is used: short histories are judged faster.
const PERIOD: Duration = Duration::from_secs(2);

/// Query parameters of the consistency modes.
pub(super) mod mode {
    pub(crate) const DEFAULT: &str = "";
    pub(crate) const CONSISTENT: &str = "?consistent";
}

/// All that was seen.
#[derive(Debug)]
pub(super) struct Witness {
    pub(super) addresses: Vec<String>,
    start: Instant,
    pub(super) stop: AtomicBool,
    /// What was done with each register.
    pub(super) history: Mutex<BTreeMap<String, Vec<Operation>>>,
    /// Keys of the rows whose write was acknowledged.
    pub(super) acknowledged: Mutex<Vec<String>>,
    /// Who said that it leads in which term.
    pub(super) leaders: Mutex<BTreeMap<u64, usize>>,
    /// Terms in which a second one said so: term, servers.
    pub(super) doubled: Mutex<Vec<(u64, usize, usize)>>,
}

impl Witness {
    pub(super) fn new(addresses: Vec<String>) -> Self {
        Self {
            addresses,
            start: now(),
            stop: AtomicBool::new(false),
            history: Mutex::default(),
            acknowledged: Mutex::default(),
            leaders: Mutex::default(),
            doubled: Mutex::default(),
        }
    }

    /// Nanoseconds since the start.
    pub(super) fn time(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).expect("not for centuries")
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Who led last.
    pub(super) fn leader(&self) -> usize {
        let leaders = self.leaders.lock().expect("no panic");
        leaders.last_key_value().map_or(0, |(_, server)| *server)
    }

    /// Asks one server again and again whether it leads.
    pub(super) fn watch_leader(&self, server: usize) {
        while !self.stopped() {
            if let Some((term, true)) = standing(&self.addresses[server]) {
                let mut leaders = self.leaders.lock().expect("no panic");
                let first = *leaders.entry(term).or_insert(server);
                if first != server {
                    self.doubled.lock().expect("no panic").push((term, first, server));
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Writes one key after another and keeps those that were acknowledged.
    pub(super) fn write_row(&self, row: u64) {
        let mut n = 0_u64;
        while !self.stopped() {
            let key = format!("row/{row}/{n:08}");
            let at = (row + n / 8) as usize % self.addresses.len();
            let answer = ask(&self.addresses[at], "PUT", &format!("/v1/kv/{key}"), b"x");
            if answer.is_ok_and(|answer| answer.status == 200 && answer.text() == "true") {
                self.acknowledged.lock().expect("no panic").push(key);
            }
            n += 1;
        }
    }

    /// Reads, writes, compares and swaps at any server.
    pub(super) fn use_registers(&self, client: u64, mut dice: Dice) {
        // Value and index that this client last saw of each register.
        let mut seen: BTreeMap<String, (Option<u64>, u64)> = BTreeMap::new();
        let mut fresh = client << 32;
        while !self.stopped() {
            let period = self.start.elapsed().as_millis() / PERIOD.as_millis();
            let key = format!("register/{period:06}/{}", dice.below(REGISTERS));
            let address = &self.addresses[dice.below(self.addresses.len() as u64) as usize];
            fresh += 1;
            let call = self.time();
            let (action, known) = match dice.below(8) {
                0..4 => {
                    let mode = if dice.below(3) == 0 { mode::DEFAULT } else { mode::CONSISTENT };
                    match read(address, &key, mode) {
                        Ok(found) => {
                            seen.insert(key.clone(), found);
                            (Action::Read(found.0), true)
                        }
                        Err(_) => continue,
                    }
                }
                4..6 => match write(address, &format!("/v1/kv/{key}"), fresh) {
                    Written::Done(_) => (Action::Put(fresh), true),
                    Written::Unknown => (Action::Put(fresh), false),
                    Written::Never => continue,
                },
                _ => {
                    let (expect, index) = seen.get(&key).copied().unwrap_or((None, 0));
                    let cas = |done| Action::Cas { expect, new: fresh, done };
                    match write(address, &format!("/v1/kv/{key}?cas={index}"), fresh) {
                        Written::Done(done) => (cas(done), true),
                        Written::Unknown => (cas(true), false),
                        Written::Never => continue,
                    }
                }
            };
            let operation = Operation { action, call, end: known.then(|| self.time()) };
            let mut history = self.history.lock().expect("no panic");
            history.entry(key).or_default().push(operation);
        }
    }
}

fn ask(address: &str, method: &str, path: &str, body: &[u8]) -> Result<Answer, String> {
    let answer = request(address, method, path, &[], body, PATIENCE);
    if answer.is_err() {
        // A dead server refuses at once: not too many tries.
        std::thread::sleep(Duration::from_millis(20));
    }
    answer
}

/// What came of a write.
enum Written {
    /// `true` or `false`.
    Done(bool),
    Unknown,
    /// It never reached a server.
    Never,
}

fn write(address: &str, path: &str, value: u64) -> Written {
    match ask(address, "PUT", path, value.to_string().as_bytes()) {
        Ok(answer) if answer.status == 200 => Written::Done(answer.text() == "true"),
        Err(error) if error.contains("refused") => Written::Never,
        _ => Written::Unknown,
    }
}

/// Value and index of a register; `None` and 0: it is missing.
pub(super) fn read(address: &str, key: &str, mode: &str) -> Result<(Option<u64>, u64), String> {
    let answer = ask(address, "GET", &format!("/v1/kv/{key}{mode}"), b"")?;
    match answer.status {
        404 => Ok((None, 0)),
        200 => {
            let row: Value = answer.json();
            let index = row[0]["ModifyIndex"].as_u64().ok_or("no index")?;
            let text = row[0]["Value"].as_str().ok_or("no value")?;
            Ok((Some(unbase64(text)?), index))
        }
        _ => Err(answer.text()),
    }
}

/// A number that was written in digits and came back in base64.
fn unbase64(text: &str) -> Result<u64, String> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut bits, mut held, mut digits) = (0_u32, 0, String::new());
    for letter in text.bytes().filter(|letter| *letter != b'=') {
        let six = LETTERS.iter().position(|one| *one == letter).ok_or("not base64")?;
        bits = bits << 6 | u32::try_from(six).expect("below 64");
        held += 6;
        if held >= 8 {
            held -= 8;
            digits.push(char::from((bits >> held & 0xff) as u8));
        }
    }
    digits.parse().map_err(|error| format!("{error}: {digits}"))
}
