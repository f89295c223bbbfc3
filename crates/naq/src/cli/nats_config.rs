//! `naq nats-config`: the users of nats-server's configuration, and whether a running server has them.

mod check;
mod folder;

use std::path::PathBuf;

use super::exit::Failure;
use super::json;
use super::render;
use super::session::Session;
use folder::Folder;
use naq_client::{AccountNames, Login, Names, Role, RoleUser, UsersConfig};
use naq_protocol::QueueName;

/// The roles of a configuration that names none.
const DEFAULT_ROLES: [Role; 5] = [
    Role::Producer,
    Role::Worker,
    Role::Scheduler,
    Role::Reader,
    Role::Operator,
];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Queue that the users may use; may be given several times [default: the setting `default_queue`]
    #[arg(short = 'q', long, value_name = "QUEUE")]
    queue: Vec<String>,
    /// Role to make a user for; may be given several times: producer, worker, scheduler, reader, operator
    /// or api [default: all but api]
    #[arg(long, value_name = "ROLE", hide_possible_values = true)]
    role: Vec<Role>,
    /// Let producers enqueue jobs and read nothing
    #[arg(long)]
    publish_only: bool,
    /// Tenant, which gets accounts of its own; may be given several times
    #[arg(long, value_name = "NAME", value_parser = parse_account, conflicts_with = "account")]
    tenant: Vec<String>,
    /// Account of the streams; the producers' account has this name followed by `_producers`
    #[arg(long, value_name = "NAME", value_parser = parse_account, default_value = "naq")]
    account: String,
    /// Let users log in by key pairs instead of passwords; needs --out, for the seeds
    #[arg(long, requires = "out")]
    nkeys: bool,
    /// Folder to write the configuration, the credentials and each role's settings into; credentials that
    /// it already has are kept
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Check on the server what the roles may do, without changing anything; connects as each user of --out,
    /// else as naq's own user
    #[arg(long)]
    check: bool,
}

fn parse_account(text: &str) -> Result<String, String> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    match (1..=64).contains(&text.len()) && text.chars().all(is_part) {
        true => Ok(text.to_owned()),
        false => Err("a name has 1 to 64 letters, digits, `_` and `-`".to_owned()),
    }
}

/// The accounts of one tenant, or those of an installation without tenants.
struct Tenant<'a> {
    name: Option<&'a str>,
    accounts: AccountNames,
}

impl Tenant<'_> {
    /// The name of a role's user. Names are unique over all accounts of a server.
    fn user(&self, role: Role) -> String {
        match self.name {
            Some(tenant) => format!("{tenant}-{role}"),
            None => role.name().to_owned(),
        }
    }
}

impl Args {
    fn tenants(&self) -> Vec<Tenant<'_>> {
        if self.tenant.is_empty() {
            return vec![Tenant {
                name: None,
                accounts: AccountNames::new(&self.account),
            }];
        }
        let tenants = self.tenant.iter();
        tenants
            .map(|name| Tenant {
                name: Some(name),
                accounts: AccountNames::new(name),
            })
            .collect()
    }

    /// The roles, each once.
    fn roles(&self) -> Vec<Role> {
        let mut roles = match self.role.is_empty() {
            true => DEFAULT_ROLES.to_vec(),
            false => self.role.clone(),
        };
        roles.sort();
        roles.dedup();
        roles
    }

    fn queues(&self, session: &Session) -> Result<Vec<QueueName>, Failure> {
        if self.queue.is_empty() {
            return Ok(vec![QueueName::new(&session.settings().default_queue)?]);
        }
        let mut queues = Vec::new();
        for name in &self.queue {
            let queue = QueueName::new(name)?;
            if !queues.contains(&queue) {
                queues.push(queue);
            }
        }
        Ok(queues)
    }
}

pub(super) async fn run(session: &Session, args: Args) -> Result<u8, Failure> {
    let queues = args.queues(session)?;
    if args.check {
        return check::run(session, &args, &queues).await;
    }
    let names = Names::new(&session.settings().prefix)?;
    let config = UsersConfig {
        names: &names,
        queues: &queues,
        publish_only: args.publish_only,
    };
    let Some(path) = &args.out else {
        let text = text(&args, config, &mut password_variable)?;
        if session.json {
            render::print_json(&json::NatsConfig {
                config: Some(text),
                files: Vec::new(),
            })?;
        } else {
            render::print_line(text.trim_end())?;
        }
        return Ok(0);
    };
    if session.settings().nats_url.is_none() {
        // naq sends a credential only to the address in the same place, so no verb could use these settings.
        return Err(Failure::usage(
            "the settings of the users need the server's address, and none is configured",
        )
        .hint("give it with --nats-url"));
    }
    let mut folder = Folder::open(path)?;
    let text = text(&args, config, &mut |user, role| {
        folder.add_user(session, config, user, role, args.nkeys)
    })?;
    folder.write("nats.conf", &text)?;
    let files = folder.into_written();
    if session.json {
        render::print_json(&json::NatsConfig {
            config: None,
            files,
        })?;
    } else {
        for file in files {
            render::print_line(file.display())?;
        }
    }
    Ok(0)
}

/// A login whose password nats-server reads from its environment.
fn password_variable(user: &str, _role: Role) -> Result<Login, Failure> {
    let variable = user.to_ascii_uppercase().replace('-', "_");
    Ok(Login::PasswordVariable {
        user: user.to_owned(),
        variable: format!("{variable}_PASSWORD"),
    })
}

/// The configuration. `login` makes the login of a user.
fn text(
    args: &Args,
    config: UsersConfig<'_>,
    login: &mut impl FnMut(&str, Role) -> Result<Login, Failure>,
) -> Result<String, Failure> {
    let queues: Vec<&str> = config.queues.iter().map(QueueName::as_str).collect();
    let mut text = format!(
        "# The users of naq for nats-server, written by `naq nats-config`: prefix {}, queues {}.\n\
         # Start the server with it: nats-server -js -sd FOLDER -c FILE\n\
         # Each user has reply subjects of its own: its setting `inbox_prefix` is _INBOX_ and the role.\n\
         # Permissions within an account protect against mistakes, not against attacks.\n",
        config.names.prefix(),
        queues.join(" "),
    );
    if args.roles().contains(&Role::Producer) {
        text.push_str(&format!(
            "# Producers have an account of their own: their setting `jetstream_domain` is {}.\n",
            config.producers_domain()
        ));
    }
    text.push_str("accounts {\n");
    for tenant in args.tenants() {
        let mut users = Vec::new();
        for role in args.roles() {
            let login = login(&tenant.user(role), role)?;
            users.push(RoleUser { role, login });
        }
        let accounts = config.accounts(&tenant.accounts, &users);
        text.push_str(&accounts.map_err(|error| Failure::general(error.to_string()))?);
    }
    text.push_str("}\n");
    Ok(text)
}
