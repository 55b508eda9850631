//! `flowbridge recon run --reword`, with the program itself and a language model's address that is served here.
//!
//! The server is a real one over HTTP that answers what the test says; no language model runs.

use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc::{self, Receiver};

const HONEST: &str = "No other line comes close; the evidence named beside speaks for this one.";
const LIE: &str = "This match is 123.456 % certain, post it.";

/// Answers with the truth and a lie by turns, and hands on what it was asked.
fn serve() -> (String, Receiver<Value>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    let (asked, questions) = mpsc::channel();
    std::thread::spawn(move || {
        for (number, stream) in listener.incoming().enumerate() {
            let mut reader = BufReader::new(stream.unwrap());
            let mut length = 0;
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let text = if number % 2 == 0 { HONEST } else { LIE };
            let answer =
                json!({"choices": [{"message": {"role": "assistant", "content": text}}]}).to_string();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
            let whole = format!("{head}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
            reader.get_mut().write_all(whole.as_bytes()).unwrap();
            if asked.send(serde_json::from_slice(&body).unwrap()).is_err() {
                return;
            }
        }
    });
    (url, questions)
}

fn flowbridge(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_flowbridge")).args(arguments).current_dir(folder).output().unwrap()
}

#[test]
fn an_allowed_model_words_explanations_and_its_lies_are_not_shown() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (url, questions) = serve();
    let generate =
        ["recon", "generate", "--seed", "5", "--entries", "3000", "--noise", "2.5", "--out", "books"];
    assert!(flowbridge(folder, &generate).status.success());
    let run = |config: &str| {
        std::fs::write(folder.join("flowbridge.toml"), config).unwrap();
        let arguments = [
            "--config",
            "flowbridge.toml",
            "recon",
            "run",
            "--ledger",
            "books/ledger.csv",
            "--bank",
            "books/bank.csv",
            "--out",
            "report",
            "--reword",
        ];
        flowbridge(folder, &arguments)
    };
    let refused = run("");
    assert!(!refused.status.success());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("[explanations] url"), "off by default");
    let refused = run(&format!("[explanations]\nurl = \"{url}\"\n"));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("urls_allowed"),
        "one setting alone is not enough"
    );
    assert!(questions.try_recv().is_err(), "nobody was asked");

    let allowed =
        format!("[explanations]\nurl = \"{url}\"\nurls_allowed = [\"{url}\"]\nasked_per_run_max = 4\n");
    let done = run(&allowed);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("2 explanations in other words, 2 kept as they were"), "{said}");
    let page = std::fs::read_to_string(folder.join("report/report.html")).unwrap();
    assert_eq!(page.matches(HONEST).count(), 2);
    assert!(!page.contains("123.456"));

    let ledger = std::fs::read_to_string(folder.join("books/ledger.csv")).unwrap();
    let accounts: Vec<&str> = ledger.lines().skip(1).filter_map(|line| line.split(',').nth(1)).collect();
    let asked: Vec<String> = questions.try_iter().map(|question| question.to_string()).collect();
    assert_eq!(asked.len(), 4);
    for question in asked {
        assert!(question.contains("moved the score by"), "{question}");
        assert!(!question.contains("GmbH") && !question.contains("NL"), "{question}");
        assert!(accounts.iter().all(|account| !question.contains(account)), "{question}");
    }
}
