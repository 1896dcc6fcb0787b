// Talks to an echo server by the WebSocket client that is part of Java since version 11.
//
//     java HttpClientWebSocket.java URL PEM-FILE < texts > result
//
// Texts come and go in Base64, one a line. Each is sent when the one before has come back, in two
// fragments if it can be parted; then a binary message of 100,000 bytes. The last line of the
// result is the code of the close.

import java.io.BufferedReader;
import java.io.FileInputStream;
import java.io.InputStreamReader;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.WebSocket;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import java.util.Arrays;
import java.util.Base64;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

public class HttpClientWebSocket {
    static final BlockingQueue<Object> heard = new LinkedBlockingQueue<>();

    public static void main(String[] arguments) throws Exception {
        HttpClient client = HttpClient.newBuilder().sslContext(trusting(arguments[1])).build();
        WebSocket socket = client.newWebSocketBuilder().buildAsync(URI.create(arguments[0]), new Listener()).get();

        BufferedReader texts = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.US_ASCII));
        for (String line; (line = texts.readLine()) != null; ) {
            String text = new String(Base64.getDecoder().decode(line), StandardCharsets.UTF_8);
            // It refuses half a character at the end of a fragment by itself.
            int half = text.offsetByCodePoints(0, text.codePointCount(0, text.length()) / 2);
            if (half > 0) {
                socket.sendText(text.substring(0, half), false).get();
            }
            socket.sendText(text.substring(half), true).get();
            System.out.println(Base64.getEncoder().encodeToString(((String) hear()).getBytes(StandardCharsets.UTF_8)));
        }
        byte[] bytes = new byte[100_000];
        for (int index = 0; index < bytes.length; index++) {
            bytes[index] = (byte) (index * 7);
        }
        socket.sendBinary(ByteBuffer.wrap(bytes), true).get();
        if (!Arrays.equals((byte[]) hear(), bytes)) {
            throw new AssertionError("other bytes came back");
        }
        socket.sendPing(ByteBuffer.wrap(new byte[] {1, 2, 3})).get();
        if (!hear().equals("pong of 3 bytes")) {
            throw new AssertionError("no pong");
        }
        socket.sendClose(WebSocket.NORMAL_CLOSURE, "bye").get();
        System.out.println(hear());
    }

    static Object hear() throws Exception {
        Object message = heard.poll(20, TimeUnit.SECONDS);
        if (message == null) {
            throw new AssertionError("silence");
        }
        return message;
    }

    static SSLContext trusting(String pemFile) throws Exception {
        KeyStore trusted = KeyStore.getInstance(KeyStore.getDefaultType());
        trusted.load(null, null);
        try (FileInputStream pem = new FileInputStream(pemFile)) {
            trusted.setCertificateEntry("authority", CertificateFactory.getInstance("X.509").generateCertificate(pem));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(trusted);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(null, trust.getTrustManagers(), null);
        return context;
    }

    /** Puts messages together again from the parts that it is given. */
    static class Listener implements WebSocket.Listener {
        final StringBuilder text = new StringBuilder();
        final java.io.ByteArrayOutputStream binary = new java.io.ByteArrayOutputStream();

        @Override public CompletionStage<?> onText(WebSocket socket, CharSequence part, boolean isLast) {
            text.append(part);
            if (isLast) {
                heard.add(text.toString());
                text.setLength(0);
            }
            socket.request(1);
            return null;
        }

        @Override public CompletionStage<?> onBinary(WebSocket socket, ByteBuffer part, boolean isLast) {
            byte[] bytes = new byte[part.remaining()];
            part.get(bytes);
            binary.writeBytes(bytes);
            if (isLast) {
                heard.add(binary.toByteArray());
                binary.reset();
            }
            socket.request(1);
            return null;
        }

        @Override public CompletionStage<?> onPong(WebSocket socket, ByteBuffer message) {
            heard.add("pong of " + message.remaining() + " bytes");
            socket.request(1);
            return null;
        }

        @Override public CompletionStage<?> onClose(WebSocket socket, int code, String reason) {
            heard.add(code);
            return null;
        }

        @Override public void onError(WebSocket socket, Throwable error) {
            heard.add("error: " + error);
        }
    }
}
