//! Signs of life. Every rank but 0 sends rank 0 a byte a second, from a thread that does nothing else, however long a step
//! takes. One that is stopped, or whose machine is gone without a word, is silent; rank 0 then closes all connections,
//! so that nobody waits for it any longer. Rank 0 itself may be silent: who stops it (Ctrl-Z) goes on with it later.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use artifact::bail_user;

/// Between two bytes, and between two looks.
const BEAT: Duration = Duration::from_secs(1);
/// How long a rank that has lost rank 0 may take to say so.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// Seconds of silence after which a rank is given up, where the environment says nothing else.
const SILENCE: u32 = 60;
/// The variable that says something else.
const VARIABLE: &str = "ISOGLOSS_RANK_TIMEOUT";

/// Sends them from here on. When rank 0 is gone, this process ends, if it has not ended by then.
pub fn send(mut to: TcpStream) {
    std::thread::spawn(move || {
        while to.write_all(&[0]).is_ok() {
            std::thread::sleep(BEAT);
        }
        std::thread::sleep(LAST_WORDS);
        std::process::exit(1);
    });
}

/// What is watched.
#[derive(Default)]
struct Watched {
    /// To be closed when a rank is silent.
    connections: Vec<TcpStream>,
    /// The first that was, and for how many seconds.
    silent: Option<(usize, u32)>,
}

/// Watches over the other ranks as long as it is there.
pub struct Watch {
    pulses: Vec<TcpStream>,
    watched: Arc<Mutex<Watched>>,
}

impl Watch {
    /// Over ranks from 1 on; `connections` are closed when one is silent.
    ///
    /// # Errors
    /// If a thread cannot be started.
    pub fn start(pulses: Vec<TcpStream>, connections: Vec<TcpStream>, limit: u32) -> Result<Self> {
        let watched = Arc::new(Mutex::new(Watched { connections, silent: None }));
        for (pulse, rank) in pulses.iter().zip(1..) {
            let (mut pulse, watched) = (pulse.try_clone()?, Arc::clone(&watched));
            pulse.set_read_timeout(Some(BEAT))?;
            std::thread::spawn(move || {
                if is_silent(&mut pulse, limit) {
                    let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
                    watched.silent.get_or_insert((rank, limit));
                    for connection in &watched.connections {
                        // It may be closed already.
                        let _ = connection.shutdown(Shutdown::Both);
                    }
                }
            });
        }
        Ok(Self { pulses, watched })
    }

    /// The first rank that was silent, and for how many seconds.
    #[must_use]
    pub fn silent(&self) -> Option<(usize, u32)> {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).silent
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        for pulse in &self.pulses {
            // This ends its thread.
            let _ = pulse.shutdown(Shutdown::Both);
        }
    }
}

/// Reads until the connection is closed, or nothing has come for so many looks, one a second. Looks are counted and not
/// time: this process may have been stopped itself.
fn is_silent(pulse: &mut TcpStream, limit: u32) -> bool {
    let mut in_vain = 0;
    while in_vain < limit {
        match pulse.read(&mut [0; 64]) {
            Ok(0) => return false,
            Ok(_) => in_vain = 0,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                in_vain += 1;
            }
            Err(_) => return false,
        }
    }
    true
}

/// Seconds of silence after which a rank is given up.
///
/// # Errors
/// A user error if the environment says something that is no number of seconds.
pub fn limit() -> Result<u32> {
    let Ok(text) = std::env::var(VARIABLE) else { return Ok(SILENCE) };
    match text.parse() {
        Ok(seconds) if seconds > 0 => Ok(seconds),
        _ => {
            bail_user!("{VARIABLE} is \"{text}\"; it must be a whole number of seconds, at least 1")
        }
    }
}
