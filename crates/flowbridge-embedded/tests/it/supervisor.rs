//! A second process that runs a server until it is killed, as a user's `flowbridge dev` may be.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flowbridge_embedded::{AnvilSettings, EmbeddedAnvil, EmbeddedPostgres};

/// The process that runs `server` (`postgres` or `anvil`) in `folder`, and the URL where it answers.
pub(crate) fn run(server: &str, folder: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "supervisor::run_until_killed"])
        .env("FLOWBRIDGE_TEST_SERVER", server)
        .env("FLOWBRIDGE_TEST_FOLDER", folder)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = lines.map_while(Result::ok).find_map(|line| Some(line.split_once("url=")?.1.to_owned()));
    (child, url.unwrap())
}

/// SIGKILL, which leaves no time to stop anything.
pub(crate) fn kill(mut supervisor: Child) {
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
}

#[test]
#[ignore = "the other process of `run`"]
fn run_until_killed() {
    let (Some(server), Some(folder)) =
        (std::env::var_os("FLOWBRIDGE_TEST_SERVER"), std::env::var_os("FLOWBRIDGE_TEST_FOLDER"))
    else {
        return;
    };
    let folder = Path::new(&folder);
    if server == "postgres" {
        let postgres = EmbeddedPostgres::start(folder, None).unwrap();
        println!("url={}", postgres.url());
        park_for_ever()
    }
    let block_time = Duration::from_millis(50);
    let settings = AnvilSettings { block_time, ..AnvilSettings::in_folder(folder) };
    let anvil = EmbeddedAnvil::start(settings).unwrap();
    println!("url={}", anvil.rpc_url());
    park_for_ever()
}

fn park_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}
