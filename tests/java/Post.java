import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;

/** POSTs one body to each URL with the JDK's client as it comes, and prints each answer as a line. */
class Post {
    public static void main(String[] arguments) throws Exception {
        // Its default is HTTP/2: over http it asks for an upgrade to h2c with the first request, body and all.
        HttpClient client = HttpClient.newHttpClient();
        for (int at = 0; at < arguments.length; at += 2) {
            HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[at]))
                    .header("content-type", "application/json")
                    .POST(BodyPublishers.ofString(arguments[at + 1]))
                    .build();
            var response = client.send(request, BodyHandlers.ofString());
            System.out.println(response.version() + " " + response.statusCode() + " " + response.body());
        }
    }
}
