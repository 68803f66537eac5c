//! Which figures stand in which table of the report.

/// A column: its heading, the figure, and how many decimals to show.
pub(crate) struct Column(pub(crate) &'static str, pub(crate) &'static str, pub(crate) usize);

pub(crate) struct Table {
    pub(crate) title: &'static str,
    pub(crate) columns: &'static [Column],
    /// Whether how many times the base each subject reaches means something.
    pub(crate) ratios: bool,
}

pub(crate) const TABLES: &[Table] = &[
    Table {
        title: "Throughput and processor time",
        columns: &[
            Column("TCP ×1 Gbit/s", "tcp_gbps", 2),
            Column("reverse", "reverse_gbps", 2),
            Column("×4", "four_gbps", 2),
            Column("daemons' CPU s/GB, ×1", "tcp_cpu", 2),
            Column("×4", "four_cpu", 2),
            Column("machine's CPU s/GB, ×1", "tcp_machine_cpu", 2),
            Column("AEAD s/GB", "aead_cpu", 2),
        ],
        ratios: true,
    },
    Table {
        title: "Throughput and processor time without UDP segmentation in the device",
        columns: &[
            Column("TCP ×1 Gbit/s", "soft_tcp_gbps", 2),
            Column("×4", "soft_four_gbps", 2),
            Column("daemons' CPU s/GB, ×1", "soft_tcp_cpu", 2),
            Column("×4", "soft_four_cpu", 2),
            Column("machine's CPU s/GB, ×1", "soft_tcp_machine_cpu", 2),
        ],
        ratios: true,
    },
    Table {
        title: "Latency: one byte there and back over TCP, alone and beside a bulk TCP stream",
        columns: &[
            Column("p50 µs", "rtt_p50", 0),
            Column("p99 µs", "rtt_p99", 0),
            Column("round trips", "rtt_count", 0),
            Column("loaded p50 µs", "loaded_p50", 0),
            Column("loaded p99 µs", "loaded_p99", 0),
            Column("loaded round trips", "loaded_count", 0),
            Column("p99 loaded / unloaded", "loaded_ratio", 2),
            Column("bulk stream Gbit/s", "loaded_gbps", 2),
        ],
        ratios: true,
    },
    Table {
        title: "Small packets: UDP datagrams of 64 bytes",
        columns: &[
            Column("kpps at ≤1 % loss", "udp_kpps", 0),
            Column("flood kpps", "flood_kpps", 0),
            Column("flood loss %", "flood_loss", 0),
        ],
        ratios: true,
    },
    Table {
        title: "Memory: resident, the larger of both daemons, one peer",
        columns: &[Column("idle MB", "idle_mb", 1), Column("at most MB", "peak_mb", 1)],
        ratios: false,
    },
    Table {
        title: "10,000 configured peers, 1,000 of them active, against one",
        columns: &[
            Column("bytes per idle peer", "idle_peer_bytes", 0),
            Column("bytes per active peer", "active_peer_bytes", 0),
            Column("resident MB", "peers_mb", 1),
            Column("one peer Gbit/s", "one_peer_gbps", 2),
            Column("many peers Gbit/s", "many_peers_gbps", 2),
            Column("loss %", "peers_loss", 1),
        ],
        ratios: false,
    },
    Table {
        title: "Junk initiations with a correct mac1 beside a bulk TCP stream, against the same packets to a closed port",
        columns: &[
            Column("initiations kpps", "junk_kpps", 0),
            Column("closed port Gbit/s", "junk_closed_gbps", 2),
            Column("tunnel Gbit/s", "junk_tunnel_gbps", 2),
            Column("loss %", "junk_loss", 1),
            Column("forged: closed port Gbit/s", "forged_closed_gbps", 2),
            Column("tunnel Gbit/s", "forged_tunnel_gbps", 2),
            Column("loss %", "forged_loss", 1),
            Column("resident at most MB", "junk_peak_mb", 1),
        ],
        ratios: false,
    },
    Table {
        title: "Genuine handshakes beside a bulk TCP stream, against the same packets to a closed port",
        columns: &[
            Column("handshakes/s", "handshakes_per_second", 0),
            Column("answered %", "handshakes_answered", 0),
            Column("closed port Gbit/s", "handshake_closed_gbps", 2),
            Column("tunnel Gbit/s", "handshake_tunnel_gbps", 2),
            Column("loss %", "handshake_loss", 1),
            Column("share of the processors %", "handshake_share", 1),
            Column("loss / share", "handshake_loss_to_share", 2),
            Column("standard error", "handshake_loss_error", 2),
            Column("share of what is not idle %", "handshake_share_in_use", 1),
            Column("loss / that", "handshake_loss_to_share_in_use", 2),
            Column("all else, CPU s/GB: closed port", "handshake_closed_rest", 2),
            Column("tunnel", "handshake_tunnel_rest", 2),
            Column("µs each", "handshake_us", 0),
        ],
        ratios: false,
    },
    Table {
        title: "Bad lines of 5 ms each way: 32 TCP streams with CUBIC, Mbit/s",
        columns: &[
            Column("20 % loss", "lossy_mbps", 1),
            Column("20 % reordering", "reordering_mbps", 1),
            Column("20 % each of loss, reordering, duplication", "impaired_mbps", 1),
            Column("resident at most MB", "impaired_peak_mb", 1),
        ],
        ratios: false,
    },
    Table {
        title: "One flow through one engine, Gbit/s: what comes and goes costs next to nothing",
        columns: &[
            Column("sealed by 1 worker", "seal_one_gbps", 2),
            Column("by 2", "seal_two_gbps", 2),
            Column("by 2 without help", "seal_unhelped_gbps", 2),
            Column("2 / 1", "seal_ratio", 2),
            Column("opened by 1 worker", "open_one_gbps", 2),
            Column("by 2", "open_two_gbps", 2),
            Column("by 2 without help", "open_unhelped_gbps", 2),
            Column("2 / 1", "open_ratio", 2),
        ],
        ratios: false,
    },
    Table {
        title: "A hub, its kernel forwarding: three daemons on this one machine, and what they spend together",
        columns: &[
            Column("TCP ×1 Gbit/s", "hub_tcp_gbps", 2),
            Column("×4", "hub_four_gbps", 2),
            Column("daemons' CPU s/GB, ×1", "hub_tcp_cpu", 2),
            Column("×4", "hub_four_cpu", 2),
        ],
        ratios: false,
    },
    Table {
        title: "Busy polling: one byte there and back over TCP, and the time of both daemons",
        columns: &[
            Column("p50 µs", "poll_p50", 0),
            Column("p99 µs", "poll_p99", 0),
            Column("round trips/s", "poll_per_second", 0),
            Column("% of one processor", "poll_cpu", 0),
        ],
        ratios: false,
    },
    Table {
        title: "Wires of other sizes, MTU not configured: Gbit/s of the first gigabyte over one TCP connection, and the largest packet found",
        columns: &[
            Column("1500", "u1500_gbps", 2),
            Column("1280", "u1280_gbps", 2),
            Column("1280, hidden from the sender", "hidden_gbps", 2),
            Column("9000", "u9000_gbps", 2),
            Column("largest packet, 1500", "u1500_mtu", 0),
            Column("1280", "u1280_mtu", 0),
            Column("1280, hidden", "hidden_mtu", 0),
            Column("9000", "u9000_mtu", 0),
        ],
        ratios: false,
    },
    Table {
        title: "A server on one processor, with 10,000 registered nodes",
        columns: &[
            Column("joins/s", "joins_per_second", 0),
            Column("server CPU µs each", "join_cpu_us", 0),
            Column("look-ups/s", "look_ups_per_second", 0),
            Column("resident MB", "registered_mb", 1),
            Column("with 2,000 more, connected, MB", "joined_mb", 1),
            Column("membership bytes", "membership_bytes", 0),
        ],
        ratios: false,
    },
    Table {
        title: "A network by membership: from `tombolo join` on, and TCP ×1 through the relay",
        columns: &[
            Column("joined s", "join_seconds", 2),
            Column("first byte of another node s", "first_byte_seconds", 2),
            Column("direct Gbit/s", "direct_gbps", 2),
            Column("relayed Gbit/s", "relayed_gbps", 2),
            Column("relayed / direct", "relayed_to_direct", 2),
        ],
        ratios: false,
    },
];
