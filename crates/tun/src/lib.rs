//! TUN device layer of Linux: queues, addresses, routes, rules and the guard
