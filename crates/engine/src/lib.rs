//! Worker threads that carry packets between TUN and UDP through noise and route
