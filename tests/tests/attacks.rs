//! Strangers before a server that members use.
//!
//! ```text
//!   server 192.0.2.10 ── router ── 198.51.100.10 stranger
//! ```

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::ensure;
use tombolo_tests::{host::Host, machine_wide, node::PORT, topology::Internet, transfer::Noise};

#[test]
fn a_scan_gets_no_answer_of_any_size_control_rule_8() {
    machine_wide("a_scan_gets_no_answer_of_any_size_control_rule_8", |scene| {
        let mut internet = Internet::new()?;
        let server = Host::new(scene, &mut internet, "server", [192, 0, 2, 0])?;
        let stranger = internet.region("stranger", [198, 51, 100, 0])?;
        server.init(&["--name", "server"])?;
        let socket = stranger.namespace.enter(|| Ok(UdpSocket::bind("0.0.0.0:0")?))?;
        socket.connect((server.machine.address, PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        let mut noise = Noise::new(9);
        let mut sent = 0;
        // Each length; as what begins each type of message, as a control frame, and as nothing at all.
        for length in 0..=1472 {
            for first in [1, 2, 3, 4, 0xf1, 0x45] {
                let mut datagram = vec![0; length];
                noise.fill(&mut datagram);
                if let Some(header) = datagram.get_mut(..4) {
                    header.copy_from_slice(&[first, 0, 0, 0]);
                }
                socket.send(&datagram)?;
                sent += 1;
            }
        }
        let mut answer = [0; 2048];
        if let Ok(length) = socket.recv(&mut answer) {
            anyhow::bail!("{length} bytes came back: {:?}", &answer[..length.min(16)]);
        }
        // It was there all the while, and has counted what came.
        let status = server.json(&["status", "--json"])?;
        let dropped: u64 =
            status["drops"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        scene.say(&format!("{sent} datagrams, no answer; {dropped} were counted as dropped"));
        ensure!(status["pid"].is_number(), "{status}");
        Ok(())
    });
}
