# What CI runs, the readme's own test command first.
ci: test
    .ci/run --without-tests

# The readme's test command.
test:
    cargo test

fmt:
    cargo fmt

lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Figures for the readme.
bench *options:
    cargo run --release -p naq -- bench {{options}}

# Write the checked-in schemas again.
schemas:
    for name in envelope record schedule worker; do cargo run --quiet -p naq -- schema $name > schemas/$name.v1.json; done

# The promises under attack for longer than CI has time for; `servers` is one or three.
chaos jobs="100000" kills="1000" servers="one" seed="":
    NAQ_CHAOS_JOBS={{jobs}} NAQ_CHAOS_KILLS={{kills}} NAQ_CHAOS_SEED={{seed}} cargo test --test naq -- --exact chaos::the_promises_hold_on_{{servers}} --nocapture

# The same of schedules: ticks that at least have become jobs, and SIGKILLs from outside.
chaos-schedules ticks="10000" kills="100" servers="one" seed="":
    NAQ_CHAOS_JOBS={{ticks}} NAQ_CHAOS_KILLS={{kills}} NAQ_CHAOS_SEED={{seed}} cargo test --test naq -- --exact chaos::the_promise_of_schedules_holds_on_{{servers}} --nocapture
