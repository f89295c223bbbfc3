// Enqueues a job over NATS and waits for its outcome, with the NATS client for Go and no naq: see README.md.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

type record struct {
	State, Error string
	Stdout       struct{ Text string }
}

func main() {
	login := nats.Token(os.Getenv("NAQ_TOKEN"))
	if seed := os.Getenv("NAQ_NKEY"); seed != "" {
		login = check(nats.NkeyOptionFromSeed(seed))
	}
	nc := check(nats.Connect(os.Getenv("NAQ_NATS_URL"), login))
	defer nc.Close()
	id := nats.NewInbox()[len("_INBOX."):]
	// subscribe before the enqueue: no change of the job's record is missed
	events := check(nc.SubscribeSync("naq.event." + id))
	envelope := []byte(`{"command": "echo", "args": ["hello from Go"], "timeout": "1m"}`)
	check(check(nc.JetStream()).Publish("naq.queue.build."+id, envelope))

	ended := map[string]bool{"succeeded": true, "failed": true, "cancelled": true, "expired": true, "rejected": true}
	var job record
	for !ended[job.State] {
		job = record{}
		check(job, json.Unmarshal(check(events.NextMsg(time.Minute)).Data, &job))
	}
	fmt.Println(job.State, strings.TrimSpace(job.Error+job.Stdout.Text))
	if job.State != "succeeded" {
		os.Exit(1)
	}
}

func check[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
