//! `Client::from_env`: where it connects, and that it starts no server.

use super::*;
use naq_client::Client;

/// Connects, and prints the result. A process of its own for each case of the test below, since the
/// variables and the working directory belong to the process.
#[test]
#[ignore = "the process that another test starts"]
fn driver() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    match runtime.block_on(Client::from_env()) {
        Ok(client) => println!("connected to {}", client.server()),
        Err(error) => println!("not connected: {error}"),
    }
}

/// What [`driver`] prints in this home folder, with these variables and no others.
fn connect_from_env(home: &Path, variables: &[(&str, &str)]) -> String {
    #[expect(clippy::disallowed_methods, reason = "a producer with an environment")]
    let mut producer = Command::new(std::env::current_exe().unwrap());
    let output = producer
        .args([
            "--exact",
            "server::from_env::driver",
            "--ignored",
            "--nocapture",
        ])
        .env_clear()
        .env("HOME", home)
        .env("NAQ_CONNECT_TIMEOUT", "10s")
        .envs(variables.iter().copied())
        .current_dir(home)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let line = printed.lines().find(|line| line.contains("connected"));
    line.unwrap_or_else(|| panic!("{printed}")).to_owned()
}

#[test]
fn from_env_connects_as_variables_or_naq_toml_say_or_to_a_running_managed_server() {
    let server = TestServer::start();
    let home = TempDir::new().unwrap();
    let folder = home.path().join(".local/share/naq/server");
    let expect = |variables: &[(&str, &str)], port: u16| {
        let line = connect_from_env(home.path(), variables);
        let port = format!("127.0.0.1:{port}");
        assert!(
            line.starts_with("connected to ") && line.contains(&port),
            "{line}"
        );
    };

    // No variable, no file, no running server: none is started, whatever is at the default port.
    let line = connect_from_env(home.path(), &[]);
    assert!(!line.contains(&server.port().to_string()), "{line}");
    assert!(!folder.exists(), "{line}");

    let managed = ensure_blocking(&options(&folder)).unwrap();
    expect(&[], managed.port());

    let variables = [
        ("NAQ_NATS_URL", server.url()),
        ("NAQ_TOKEN", server.token()),
    ];
    expect(&variables, server.port());

    let users_file = home.path().join(".config/naq/naq.toml");
    fs::create_dir_all(users_file.parent().unwrap()).unwrap();
    let toml = |url: &str| {
        let text = format!("nats_url = {url:?}\ntoken = {:?}\n", server.token());
        fs::write(&users_file, text).unwrap();
    };
    toml(server.url());
    expect(&[], server.port());

    // Variables override the file.
    toml("nats://127.0.0.1:1");
    expect(&variables, server.port());

    // A server that has stopped leaves its state file behind, and is not started again.
    fs::remove_file(&users_file).unwrap();
    let port = managed.port();
    drop(managed);
    wait_until_gone(&folder, TEST_TIMEOUT).unwrap();
    let line = connect_from_env(home.path(), &[]);
    assert!(
        !line.contains(&format!("127.0.0.1:{port}")) || port == 4222,
        "{line}"
    );
    assert!(running(&folder).is_none(), "{line}");
}
