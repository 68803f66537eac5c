//! Batched UDP sockets with segmentation offload and sticky source addresses
