<?php
// Enqueues a job over HTTP and waits for its outcome, with PHP's own functions: see README.md.

function call(string $method, string $path, ?array $body = null): array
{
    $context = stream_context_create(['http' => [
        'method' => $method,
        'header' => 'Authorization: Bearer ' . getenv('API_TOKEN') . "\r\nContent-Type: application/json",
        'content' => $body === null ? '' : json_encode($body),
        'timeout' => 90,
        'ignore_errors' => true, // the body of a refusal says why
    ]]);
    $answer = json_decode(file_get_contents(getenv('API_URL') . $path, false, $context), true);
    if (isset($answer['status'])) { // a problem, as of RFC 9457
        throw new RuntimeException($answer['detail']);
    }
    return $answer;
}

$id = bin2hex(random_bytes(16));
call('PUT', "/api/queues/build/jobs/$id", ['command' => 'echo', 'args' => ['hello from PHP'], 'timeout' => '1m']);
$record = call('GET', "/api/jobs/$id?wait=60s"); // answers when the job has ended, or after 60 s
echo $record['state'], ' ', trim($record['stdout']['text'] ?? $record['error'] ?? ''), "\n";
exit($record['state'] === 'succeeded' ? 0 : 1);
