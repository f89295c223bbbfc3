// Enqueues a job over HTTP and waits for its outcome, with the standard library alone: see README.md.
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.time.Duration;
import java.util.UUID;
import java.util.regex.Pattern;

public class Producer {
    static final HttpClient CLIENT = HttpClient.newHttpClient();

    public static void main(String[] arguments) throws Exception {
        var id = UUID.randomUUID();
        call("PUT", "/api/queues/build/jobs/" + id,
            "{\"command\": \"echo\", \"args\": [\"hello from Java\"], \"timeout\": \"1m\"}");
        var record = call("GET", "/api/jobs/" + id + "?wait=60s", ""); // answers when the job has ended, or after 60 s
        var state = Pattern.compile("\"state\":\"(\\w+)\"").matcher(record); // use a JSON library if you have one
        System.out.println((state.find() ? state.group(1) : record) + " " + call("GET", "/api/jobs/" + id + "/stdout", "").strip());
        System.exit(state.group(1).equals("succeeded") ? 0 : 1);
    }

    static String call(String method, String path, String body) throws Exception {
        var request = HttpRequest.newBuilder(URI.create(System.getenv("API_URL") + path))
            .header("Authorization", "Bearer " + System.getenv("API_TOKEN"))
            .header("Content-Type", "application/json")
            .timeout(Duration.ofSeconds(90))
            .method(method, BodyPublishers.ofString(body)).build();
        var answer = CLIENT.send(request, BodyHandlers.ofString());
        if (answer.statusCode() >= 400) throw new RuntimeException(answer.body());
        return answer.body();
    }
}
