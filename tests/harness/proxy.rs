//! A TCP proxy between a worker and NATS that cuts the connection in the ways a network does.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

/// What the proxy does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    /// Bytes pass in both directions.
    Open,
    /// No bytes pass; connections stay open, and new ones are accepted.
    Silent,
    /// Bytes pass to the server only.
    ToServerOnly,
    /// Bytes pass to the client only.
    ToClientOnly,
    /// Connections are reset, new ones too.
    Reset,
    /// Connections are reset, and new ones refused, as by a machine on which nothing listens.
    Refused,
}

impl Link {
    fn passes(self, to_server: bool) -> bool {
        match self {
            Link::Open => true,
            Link::Silent | Link::Reset | Link::Refused => false,
            Link::ToServerOnly => to_server,
            Link::ToClientOnly => !to_server,
        }
    }

    fn resets(self) -> bool {
        matches!(self, Link::Reset | Link::Refused)
    }
}

struct Shared {
    link: Mutex<Link>,
    changed: Condvar,
    target: u16,
    connections: Mutex<Vec<TcpStream>>,
    is_over: AtomicBool,
}

/// A running proxy. It ends when it is dropped.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl Proxy {
    /// A proxy to a port of this machine.
    pub(crate) fn start(target: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut proxy = Proxy {
            port: listener.local_addr().unwrap().port(),
            shared: Arc::new(Shared {
                link: Mutex::new(Link::Open),
                changed: Condvar::new(),
                target,
                connections: Mutex::default(),
                is_over: AtomicBool::new(false),
            }),
            accepting: None,
        };
        proxy.accept_from(listener);
        proxy
    }

    /// The address to connect to.
    pub(crate) fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Changes what happens with connections from now on.
    pub(crate) fn set(&mut self, link: Link) {
        let before = std::mem::replace(&mut *self.shared.link.lock().unwrap(), link);
        self.shared.changed.notify_all();
        if link.resets() {
            for connection in self.shared.connections.lock().unwrap().drain(..) {
                reset(&connection);
            }
        }
        if link == Link::Refused && before != Link::Refused {
            self.stop_accepting();
        } else if link != Link::Refused && before == Link::Refused {
            let listener = listen_again(self.port);
            self.accept_from(listener);
        }
    }

    fn accept_from(&mut self, listener: TcpListener) {
        let shared = Arc::clone(&self.shared);
        shared.is_over.store(false, Ordering::SeqCst);
        self.accepting = Some(std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.is_over.load(Ordering::SeqCst) {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(&shared, &client));
            }
        }));
    }

    fn stop_accepting(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        // wakes the thread, which then closes its socket
        drop(TcpStream::connect(("127.0.0.1", self.port)));
        if let Some(accepting) = self.accepting.take() {
            accepting.join().unwrap();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.set(Link::Refused);
    }
}

fn listen_again(port: u16) -> TcpListener {
    for _ in 0..500 {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("port {port} is taken");
}

/// Ends a connection with RST.
fn reset(connection: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let _ = setsockopt(connection, sockopt::Linger, &linger);
    let _ = connection.shutdown(Shutdown::Both);
}

fn serve(shared: &Arc<Shared>, client: &TcpStream) {
    {
        // a connection that is opened while the link is down waits for it, as a SYN would
        let mut link = shared.link.lock().unwrap();
        while !link.passes(true) && !link.resets() {
            link = shared.changed.wait(link).unwrap();
        }
        if link.resets() {
            return reset(client);
        }
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", shared.target)) else {
        return reset(client);
    };
    let copy = |stream: &TcpStream| stream.try_clone().unwrap();
    let mut connections = shared.connections.lock().unwrap();
    connections.push(copy(client));
    connections.push(copy(&server));
    drop(connections);
    let (from, to) = (copy(client), copy(&server));
    let to_server = {
        let shared = Arc::clone(shared);
        std::thread::spawn(move || pump(&shared, from, to, true))
    };
    pump(shared, copy(&server), copy(client), false);
    let _ = to_server.join();
}

fn pump(shared: &Shared, mut from: TcpStream, mut to: TcpStream, to_server: bool) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes) {
        let mut link = shared.link.lock().unwrap();
        while !link.passes(to_server) && !link.resets() {
            link = shared.changed.wait(link).unwrap();
        }
        if link.resets() {
            break;
        }
        drop(link);
        if to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    reset(&from);
    reset(&to);
}
