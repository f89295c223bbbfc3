# What CI runs.
ci:
    .ci/run

# The same, and the long chaos runs.
ci-full:
    .ci/run --full

# The README's test command.
test:
    cargo test

fmt:
    cargo fmt

lint:
    cargo fmt --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Figures for the README.
bench *options:
    cargo run --profile dist -p naq -- bench {{options}}

# Measure all figures of the documentation with the release build, next to other queues too, and write them.
figures:
    benches/peers/run.py --install
    benches/peers/run.py --output target/peers/figures.json
    for verb in jobs enqueue latency schedule memory growth functions web; do target/release/naq bench --json $verb; done > target/peers/bench.ndjson
    benches/figures.py --bench target/peers/bench.ndjson --peers target/peers/figures.json

# Write the checked-in schemas from the types, and from them their page and the types of the client for Node.
schemas:
    for name in envelope record input schedule worker scheduler audit output; do cargo run --quiet -p naq -- schema $name > schemas/$name.v1.json; done
    node clients/node/scripts/generate-types.mjs
    NAQ_TEST_UPDATE=1 cargo test --quiet --locked --test naq -- schemas_page

# Make the screenshots in docs/screenshots with Chromium.
screenshots:
    cargo build --locked --workspace --bin naq
    npm ci --prefix tests/web/browser
    node tests/web/browser/screenshots.mjs target/debug/naq docs/screenshots

# Generated requests to every operation of the HTTP API: for how many seconds, how many for each operation.
schemathesis seconds="180" examples="10":
    cargo build
    .ci/schemathesis {{seconds}} {{examples}}

# A long chaos run: how many jobs, how many kills, on `one` or `three` servers.
chaos jobs="100000" kills="1000" servers="one" seed="":
    NAQ_CHAOS_JOBS={{jobs}} NAQ_CHAOS_KILLS={{kills}} NAQ_CHAOS_SEED={{seed}} cargo test --test naq -- --exact chaos::the_promises_hold_on_{{servers}} --nocapture

# Power cuts under load: how many with each setting of `sync_interval`. Needs root.
power-cuts cuts="20" seed="":
    NAQ_CHAOS_KILLS={{cuts}} NAQ_CHAOS_SEED={{seed}} cargo test --test naq -- --exact chaos::power_cuts_lose_no_more_than_the_sync_interval_says --nocapture

# Chaos for schedules: how many ticks must have become jobs, how many kills.
chaos-schedules ticks="10000" kills="100" servers="one" seed="":
    NAQ_CHAOS_JOBS={{ticks}} NAQ_CHAOS_KILLS={{kills}} NAQ_CHAOS_SEED={{seed}} cargo test --test naq -- --exact chaos::the_promise_of_schedules_holds_on_{{servers}} --nocapture

# Each fuzz target for this many seconds.
fuzz seconds="60":
    for target in fuzz/fuzz_targets/*.rs; do RUSTC_BOOTSTRAP=1 cargo fuzz run "$(basename "$target" .rs)" -- -max_total_time={{seconds}} -timeout=10 -rss_limit_mb=1024 || exit 1; done

# Build naq for packages, and pack it into dist/. Needs zig, cargo-zigbuild and nfpm: see CONTRIBUTING.md.
release *options:
    packaging/release --no-upload {{options}}

# Build and pack twice, the second time from a copy of the sources elsewhere, and compare.
reproduce:
    packaging/reproduce
