# Enqueues a job over HTTP and waits for its outcome, with the standard library alone: see README.md.
require "json"
require "net/http"
require "securerandom"

API = URI(ENV.fetch("API_URL"))

def call(type, path, body = nil)
  request = type.new(path, "Authorization" => "Bearer #{ENV.fetch("API_TOKEN")}", "Content-Type" => "application/json")
  request.body = JSON.generate(body) if body
  http = Net::HTTP.start(API.host, API.port, use_ssl: API.scheme == "https", read_timeout: 90)
  answer = JSON.parse(http.request(request).body)
  abort "refused: #{answer["detail"]}" if answer.key?("status") # a problem, as of RFC 9457
  answer
end

id = SecureRandom.uuid
envelope = { command: "echo", args: ["hello from Ruby"], timeout: "1m" }
call(Net::HTTP::Put, "/api/queues/build/jobs/#{id}", envelope)
record = call(Net::HTTP::Get, "/api/jobs/#{id}?wait=60s") # answers when the job has ended, or after 60 s
puts "#{record["state"]} #{record.dig("stdout", "text") || record["error"]}"
exit record["state"] == "succeeded"
