//! What a person sees beside progress: results on stdout (where a closed pipe is no error), errors with their causes
//! on stderr, and Ctrl-C.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Error, Result};
use artifact::context::Context;
use artifact::error::{Interrupted, is_user};

/// Writes one line of result to stdout.
pub fn print(line: impl Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Prints why the command failed, and says so to the caller: 2 for the user's input, 1 for anything else.
pub fn fail(error: &Error) -> ExitCode {
    if error.chain().any(is_closed_pipe) {
        return ExitCode::SUCCESS;
    }
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        // A context, where there is one, says what is kept.
        let said = error.to_string();
        let kept = if said == Interrupted.to_string() { "" } else { said.as_str() };
        eprintln!("interrupted{}{kept}", if kept.is_empty() { "" } else { ": " });
        return ExitCode::from(1);
    }
    eprintln!("{}", describe(error));
    ExitCode::from(if is_user(error) { 2 } else { 1 })
}

/// The error and its causes, one a line.
pub fn describe(error: &Error) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text += &format!("\n  caused by: {cause}");
        }
    }
    text
}

fn is_closed_pipe(cause: &(dyn std::error::Error + 'static)) -> bool {
    cause.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::BrokenPipe)
}

/// The first Ctrl-C asks the running stages to stop cleanly, the second ends the process at once.
pub fn stop_on_interrupt(ctx: &Context) -> Result<()> {
    let asked = AtomicBool::new(false);
    let ctx = ctx.clone();
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::SeqCst) {
            std::process::exit(130);
        }
        ctx.cancel();
        ctx.log("stopping after the current step (Ctrl-C again stops at once)");
    })
    .context("cannot catch Ctrl-C")
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::anyhow;

    #[test]
    fn causes_stand_below_the_error_and_none_twice() {
        let error = anyhow!("no such file").context("cannot open a.csv").context("ingest failed");
        assert_eq!(
            describe(&error),
            "error: ingest failed\n  caused by: cannot open a.csv\n  caused by: no such file"
        );
        let error = anyhow!("no such file").context("cannot open a.csv: no such file");
        assert_eq!(describe(&error), "error: cannot open a.csv: no such file");
    }
}
