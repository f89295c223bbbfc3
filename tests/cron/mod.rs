//! Differential tests: cron expressions in naq and in two Python packages.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod difference;
mod question;
mod zones;

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::harness::python::python;
use difference::{Answer, Package, reasons};
use question::{Question, TIMES};

fn file(name: &str) -> PathBuf {
    Path::new(crate::ROOT).join("tests/cron").join(name)
}

/// The answers of both packages to all questions.
fn ask(questions: &[Question]) -> Vec<[Answer; 2]> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the test starts Python as a user would"
    )]
    let mut others = Command::new(python("cron", &file("requirements.txt")))
        .arg(file("others.py"))
        // Use the zones of the package, and not those of the machine.
        .env("PYTHONTZPATH", "")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = others.stdin.take().unwrap();
    let asked: String = questions
        .iter()
        .map(|question| {
            let asked = serde_json::json!({
                "expression": question.expression,
                "zone": question.zone.name(),
                "after": question.after,
                "count": TIMES,
            });
            format!("{asked}\n")
        })
        .collect();
    let asking = std::thread::spawn(move || stdin.write_all(asked.as_bytes()));
    let output = others.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);
    asking.join().unwrap().unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// `NAQ_CRON_SEED` selects other questions, `NAQ_CRON_QUESTIONS` sets their number.
#[test]
fn cron_matches_other_packages_but_for_known_differences() {
    let number = |name: &str, default: usize| {
        naq_client::config::environment()
            .get(name)
            .map_or(default, |number| number.parse().unwrap())
    };
    let seed = number("NAQ_CRON_SEED", 1);
    let count = number("NAQ_CRON_QUESTIONS", 3_000);
    println!("NAQ_CRON_SEED={seed} NAQ_CRON_QUESTIONS={count}");
    let mut chance = StdRng::seed_from_u64(seed as u64);
    let questions: Vec<Question> = (0..count).map(|_| Question::draw(&mut chance)).collect();
    let answers = ask(&questions);
    assert_eq!(answers.len(), questions.len());
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    let mut same = 0;
    let mut unexplained = Vec::new();
    for (question, answers) in questions.iter().zip(&answers) {
        for (package, answer) in [Package::Cronsim, Package::Croniter]
            .into_iter()
            .zip(answers)
        {
            match reasons(package, question, answer) {
                Ok(reasons) => {
                    same += usize::from(reasons.is_empty());
                    for reason in reasons {
                        *seen.entry(reason).or_default() += 1;
                    }
                }
                Err(what) => unexplained.push(format!("{package:?} {question:?}: {what}")),
            }
        }
    }
    println!("{same:6} of {} answers are the same", 2 * count);
    for (reason, count) in &seen {
        println!("{count:6} {reason}");
    }
    assert!(
        unexplained.is_empty(),
        "{} differences without a reason, such as\n{}",
        unexplained.len(),
        unexplained[..unexplained.len().min(20)].join("\n")
    );
    assert!(same > 2 * count * 7 / 10, "too few to be a comparison");
}

/// Both sides use the same release of the zone database.
#[test]
fn cron_comparison_uses_the_same_zone_release() {
    let requirements = std::fs::read_to_string(file("requirements.txt")).unwrap();
    // Release 2025b of the zone database is version 2025.2 of the package.
    let release = naq_cron::bundled_timezone_release();
    let (year, letter) = release.split_at(4);
    let number = letter.bytes().next().unwrap() - b'a' + 1;
    assert!(
        requirements.contains(&format!("tzdata=={year}.{number}\n")),
        "tests/cron/requirements.txt needs the tzdata of {release}"
    );
}
