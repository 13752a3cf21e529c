// A client of mwDB's protocol (May 2016) on Java's own TLS and WebSocket, for the interoperability tests.
//
//   java MwdbClient.java URL STORE-TYPE KEYSTORE KEYSTORE-PASSWORD TRUSTSTORE TRUSTSTORE-PASSWORD TLS-VERSION NODES
//
// It does what the original client does in a session: a prefix request, one put of every node in one message, a
// close; then, over a second connection, one get of every node. Prints "ok PREFIX1 PREFIX2 PROTOCOL BYTES", or fails.
// A ws:// URL (through `mwstorage tunnel`) uses no TLS, and then the store arguments are ignored.

import java.io.ByteArrayOutputStream;
import java.io.FileInputStream;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLParameters;
import javax.net.ssl.TrustManagerFactory;

final class MwdbClient implements WebSocket.Listener {
    private static final long DEADLINE_SECONDS = 60;
    private final LinkedBlockingQueue<byte[]> messages = new LinkedBlockingQueue<>();
    private final ByteArrayOutputStream partial = new ByteArrayOutputStream();

    public static void main(String[] args) throws Exception {
        URI url = URI.create(args[0]);
        HttpClient client = url.getScheme().equals("wss") ? secured(args) : HttpClient.newHttpClient();
        int nodes = Integer.parseInt(args[7]);

        MwdbClient first = new MwdbClient();
        WebSocket socket = first.connect(client, url);
        String firstPrefix = first.prefix(socket, "A");
        byte[] put = putRequest(nodes);
        socket.sendBinary(ByteBuffer.wrap(put), true).get(DEADLINE_SECONDS, TimeUnit.SECONDS);
        byte[] stored = first.next();
        if (stored.length != 4 || stored[0] != 1 || stored[1] != '#' || stored[2] != 3 || stored[3] != 'C') {
            throw new IllegalStateException("the put was answered " + text(stored));
        }
        first.close(socket);

        MwdbClient second = new MwdbClient();
        socket = second.connect(client, url);
        String secondPrefix = second.prefix(socket, "A");
        socket.sendBinary(ByteBuffer.wrap(getRequest(nodes)), true).get(DEADLINE_SECONDS, TimeUnit.SECONDS);
        String reply = text(second.next());
        if (!reply.endsWith("#\u0001C")) {
            throw new IllegalStateException("the get was answered with a trailer of another form");
        }
        String[] values = reply.substring(0, reply.length() - 3).split("#", -1);
        if (values.length != nodes) {
            throw new IllegalStateException(values.length + " values for " + nodes + " keys");
        }
        for (int node = 0; node < nodes; node++) {
            if (!values[node].equals(value(node))) {
                throw new IllegalStateException("node " + node + " came back as another value");
            }
        }
        second.close(socket);
        System.out.println("ok " + firstPrefix + " " + secondPrefix + " " + args[6] + " " + put.length);
        System.exit(0);
    }

    private static HttpClient secured(String[] args) throws Exception {
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(store(args[1], args[2], args[3]), args[3].toCharArray());
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(store(args[1], args[4], args[5]));
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        SSLParameters parameters = new SSLParameters();
        parameters.setProtocols(new String[] {args[6]});
        return HttpClient.newBuilder().sslContext(context).sslParameters(parameters).build();
    }

    private static KeyStore store(String type, String file, String password) throws Exception {
        KeyStore store = KeyStore.getInstance(type);
        try (FileInputStream in = new FileInputStream(file)) {
            store.load(in, password.toCharArray());
        }
        return store;
    }

    private WebSocket connect(HttpClient client, URI url) throws Exception {
        return client.newWebSocketBuilder().buildAsync(url, this).get(DEADLINE_SECONDS, TimeUnit.SECONDS);
    }

    private String prefix(WebSocket socket, String id) throws Exception {
        socket.sendBinary(ByteBuffer.wrap(bytes("\u0006" + id)), true).get(DEADLINE_SECONDS, TimeUnit.SECONDS);
        String reply = text(next());
        if (!reply.endsWith("#\u0007" + id)) {
            throw new IllegalStateException("the prefix request was answered " + reply);
        }
        return reply.substring(0, reply.length() - 3);
    }

    private void close(WebSocket socket) throws Exception {
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "").get(DEADLINE_SECONDS, TimeUnit.SECONDS);
        byte[] last = messages.poll(DEADLINE_SECONDS, TimeUnit.SECONDS);
        if (last == null || last.length != 0) {
            throw new IllegalStateException("no closing handshake");
        }
    }

    private byte[] next() throws Exception {
        byte[] message = messages.poll(DEADLINE_SECONDS, TimeUnit.SECONDS);
        if (message == null) {
            throw new IllegalStateException("no answer within " + DEADLINE_SECONDS + " s");
        }
        return message;
    }

    @Override
    public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer data, boolean last) {
        byte[] chunk = new byte[data.remaining()];
        data.get(chunk);
        partial.writeBytes(chunk);
        if (last) {
            messages.add(partial.toByteArray());
            partial.reset();
        }
        socket.request(1);
        return null;
    }

    @Override
    public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
        messages.add(new byte[0]);
        return null;
    }

    private static String key(int node) {
        return "\u0000;" + node + ";A;C";
    }

    private static String value(int node) {
        return "C|A,W,I:" + "bmFtZQ".repeat(60) + node;
    }

    private static byte[] putRequest(int nodes) {
        StringBuilder request = new StringBuilder();
        for (int node = 0; node < nodes; node++) {
            request.append(node == 0 ? "" : "#").append(key(node)).append('#').append(value(node));
        }
        return bytes(request.append("#\u0002C").toString());
    }

    private static byte[] getRequest(int nodes) {
        StringBuilder request = new StringBuilder();
        for (int node = 0; node < nodes; node++) {
            request.append(node == 0 ? "" : "#").append(key(node));
        }
        return bytes(request.append("#\u0000C").toString());
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.ISO_8859_1);
    }

    private static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.ISO_8859_1);
    }
}
