// A server of mwDB's protocol (May 2016) on Java's own TLS, for the interoperability tests of our client.
//
//   java MwdbServer.java STORE-TYPE KEYSTORE KEYSTORE-PASSWORD TRUSTSTORE TRUSTSTORE-PASSWORD TLS-VERSION
//
// Prints "listening PORT"; requires a client certificate; keeps values in memory; ends with its standard input.
// Every client gets prefix 0 and the put stream of the others as FORCE_RELOAD, as the original server does.

import java.io.BufferedInputStream;
import java.io.ByteArrayOutputStream;
import java.io.DataInputStream;
import java.io.FileInputStream;
import java.io.IOException;
import java.io.OutputStream;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.util.Base64;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.ConcurrentHashMap;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

final class MwdbServer {
    private static final Map<String, String> VALUES = new ConcurrentHashMap<>();
    private static final Set<OutputStream> CLIENTS = ConcurrentHashMap.newKeySet();

    public static void main(String[] args) throws Exception {
        KeyManagerFactory keys = KeyManagerFactory.getInstance("SunX509");
        keys.init(store(args[0], args[1], args[2]), args[2].toCharArray());
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(store(args[0], args[3], args[4]));
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        SSLServerSocket listener = (SSLServerSocket) context.getServerSocketFactory().createServerSocket(0);
        listener.setNeedClientAuth(true);
        listener.setEnabledProtocols(new String[] {args[5]});
        System.out.println("listening " + listener.getLocalPort());
        daemon(() -> {
            while (true) {
                SSLSocket socket = (SSLSocket) listener.accept();
                daemon(() -> serve(socket));
            }
        });
        while (System.in.read() >= 0) {
            continue;
        }
    }

    private interface Body {
        void run() throws Exception;
    }

    private static void daemon(Body body) {
        Thread thread = new Thread(() -> {
            try {
                body.run();
            } catch (Exception ended) {
                System.err.println("ended: " + ended.getMessage());
            }
        });
        thread.setDaemon(true);
        thread.start();
    }

    private static KeyStore store(String type, String file, String password) throws Exception {
        KeyStore store = KeyStore.getInstance(type);
        try (FileInputStream in = new FileInputStream(file)) {
            store.load(in, password.toCharArray());
        }
        return store;
    }

    private static void serve(SSLSocket socket) throws Exception {
        DataInputStream in = new DataInputStream(new BufferedInputStream(socket.getInputStream()));
        OutputStream out = socket.getOutputStream();
        String key = "";
        for (String line = line(in); !line.isEmpty(); line = line(in)) {
            if (line.toLowerCase().startsWith("sec-websocket-key:")) {
                key = line.substring(18).trim();
            }
        }
        byte[] accept = MessageDigest.getInstance("SHA-1").digest(bytes(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"));
        out.write(bytes("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
                + Base64.getEncoder().encodeToString(accept) + "\r\n\r\n"));
        out.flush();
        CLIENTS.add(out);
        try (socket) {
            while (frame(in, out)) {
                continue;
            }
        } finally {
            CLIENTS.remove(out);
        }
    }

    private static String line(DataInputStream in) throws IOException {
        ByteArrayOutputStream line = new ByteArrayOutputStream();
        for (int next = in.readUnsignedByte(); next != '\n'; next = in.readUnsignedByte()) {
            if (next != '\r') {
                line.write(next);
            }
        }
        return text(line.toByteArray());
    }

    private static final ThreadLocal<ByteArrayOutputStream> MESSAGE = ThreadLocal.withInitial(ByteArrayOutputStream::new);

    private static boolean frame(DataInputStream in, OutputStream out) throws IOException {
        int head = in.readUnsignedByte();
        int second = in.readUnsignedByte();
        if (second < 128) {
            throw new IOException("an unmasked frame from a client");
        }
        int length = second - 128;
        if (length == 126) {
            length = in.readUnsignedShort();
        } else if (length == 127) {
            length = Math.toIntExact(in.readLong());
        }
        byte[] mask = in.readNBytes(4);
        byte[] payload = in.readNBytes(length);
        for (int i = 0; i < length; i++) {
            payload[i] ^= mask[i % 4];
        }
        switch (head & 15) {
            case 0, 1, 2 -> {
                MESSAGE.get().writeBytes(payload);
                if (head >= 128) {
                    answer(text(MESSAGE.get().toByteArray()), out);
                    MESSAGE.get().reset();
                }
            }
            case 8 -> {
                write(out, 8, payload);
                return false;
            }
            case 9 -> write(out, 10, payload);
            default -> { }
        }
        return true;
    }

    private static void answer(String message, OutputStream out) throws IOException {
        if (message.charAt(0) == 6) {
            write(out, 2, bytes("A#\u0007" + message.substring(1)));
            return;
        }
        int trailer = message.lastIndexOf('#');
        String[] elements = message.substring(0, trailer).split("#", -1);
        String id = message.substring(trailer + 2);
        switch (message.charAt(trailer + 1)) {
            case 0 -> {
                StringBuilder reply = new StringBuilder();
                for (int i = 0; i < elements.length; i++) {
                    reply.append(i == 0 ? "" : "#").append(VALUES.getOrDefault(elements[i], ""));
                }
                write(out, 2, bytes(reply + "#\u0001" + id));
            }
            case 2 -> {
                for (int i = 0; i + 1 < elements.length; i += 2) {
                    VALUES.put(elements[i], elements[i + 1]);
                }
                for (OutputStream other : CLIENTS) {
                    if (other != out) {
                        write(other, 2, bytes(message.substring(0, trailer) + "#\u0005"));
                    }
                }
                write(out, 2, bytes("\u0001#\u0003" + id));
            }
            case 3 -> {
                for (String element : elements) {
                    VALUES.remove(element);
                }
                write(out, 2, bytes("\u0001#\u0004" + id));
            }
            default -> throw new IOException("an unknown request");
        }
    }

    private static void write(OutputStream out, int opcode, byte[] payload) throws IOException {
        ByteArrayOutputStream frame = new ByteArrayOutputStream();
        frame.write(128 | opcode);
        if (payload.length < 126) {
            frame.write(payload.length);
        } else if (payload.length < 65536) {
            frame.writeBytes(new byte[] {126, (byte) (payload.length >> 8), (byte) payload.length});
        } else {
            frame.writeBytes(new byte[] {127, 0, 0, 0, 0, (byte) (payload.length >> 24), (byte) (payload.length >> 16),
                (byte) (payload.length >> 8), (byte) payload.length});
        }
        frame.writeBytes(payload);
        synchronized (out) {
            out.write(frame.toByteArray());
            out.flush();
        }
    }

    private static byte[] bytes(String text) {
        return text.getBytes(StandardCharsets.ISO_8859_1);
    }

    private static String text(byte[] bytes) {
        return new String(bytes, StandardCharsets.ISO_8859_1);
    }
}
