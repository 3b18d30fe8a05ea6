//! The program `agent-floor` and the server that it talks to: what no agent can do without, to compare the agent with.

use std::{
    fs::{self, File},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use super::Result;
use crate::aims::Context;

/// Bytes of a receipt, and of an acknowledgement as the agent gets them.
const RECEIPT_LEN: usize = 4;
const ACK_LEN: usize = 71;
/// From the receipt to the acknowledgement: some commit.
const COMMIT: Duration = Duration::from_millis(5);

/// The program. It ends with this.
pub(super) struct Floor {
    child: Child,
}

impl Floor {
    /// It looks at the application `looks` times for each heartbeat.
    pub(super) fn start(context: &Context, application: SocketAddr, looks: u64) -> Result<Self> {
        let folder = context.scratch.join("agent-floor");
        fs::create_dir_all(&folder)?;
        let child = Command::new(context.program("agent-floor")?)
            .arg(&folder)
            .args([server()?.to_string(), application.to_string(), looks.to_string()])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(folder.join("floor.log"))?)
            .spawn()?;
        Ok(Self { child })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A server that says to each message that it has it, and that it is committed. It ends with the connection.
fn server() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    thread::spawn(move || listener.accept().map(|(client, _)| serve(client)));
    Ok(address)
}

fn serve(mut client: TcpStream) {
    let _ = client.set_nodelay(true);
    let mut message = [0; 4096];
    while let Ok(1..) = client.read(&mut message) {
        if client.write_all(&[7; RECEIPT_LEN]).is_err() {
            return;
        }
        thread::sleep(COMMIT);
        if client.write_all(&[7; ACK_LEN]).is_err() {
            return;
        }
    }
}
