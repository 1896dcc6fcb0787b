// An echo server of Boost.Beast, to measure ours against.
//
//     beast [--listen 127.0.0.1:0] [--topic]
//
// With --topic everybody is in one topic, and what anybody says goes to all.
//
// As its asynchronous examples are written, with what makes them cheaper: one thread, and the io_context told so (no locks);
// streams of concrete executors, not of any_io_executor, and without the timeouts of tcp_stream; handlers are lambdas, so that
// nothing is type-erased; no compression; a message is read into a flat_buffer and answered out of it. A frame is not split
// (auto_fragment), and the write buffer is left out of the way of large ones. In a topic a message is there once for all, in a
// shared_ptr, and who is still writing keeps a queue: a stream takes one write at a time.
#define BOOST_ASIO_HEADER_ONLY
#include <boost/asio.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/websocket.hpp>

#include <csignal>
#include <cstdio>
#include <deque>
#include <memory>
#include <string>
#include <sys/resource.h>
#include <unistd.h>
#include <unordered_set>

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace websocket = beast::websocket;
using asio::ip::tcp;
using boost::system::error_code;

using Executor = asio::io_context::executor_type;
using Socket = asio::basic_stream_socket<tcp, Executor>;
using Acceptor = asio::basic_socket_acceptor<tcp, Executor>;
using Stream = websocket::stream<Socket, false>;    // without code for permessage-deflate

constexpr std::size_t message_bytes_max = 16 << 20;

static void prepare(Stream &stream)
{
    stream.set_option(websocket::stream_base::timeout{
        websocket::stream_base::none(), websocket::stream_base::none(), false});
    stream.read_message_max(message_bytes_max);
    stream.auto_fragment(false);
}

class Echo : public std::enable_shared_from_this<Echo> {
public:
    explicit Echo(Socket socket) : stream(std::move(socket)) { prepare(stream); }

    void start()
    {
        stream.async_accept([self = shared_from_this()](error_code failed) {
            if (!failed)
                self->read();
        });
    }

private:
    void read()
    {
        stream.async_read(buffer, [self = shared_from_this()](error_code failed, std::size_t) {
            if (!failed)
                self->write();
        });
    }

    void write()
    {
        stream.text(stream.got_text());
        stream.async_write(buffer.data(), [self = shared_from_this()](error_code failed, std::size_t bytes) {
            if (failed)
                return;
            self->buffer.consume(bytes);
            self->read();
        });
    }

    Stream stream;
    beast::flat_buffer buffer;
};

struct Message {
    bool is_text;
    std::string bytes;
};

class Subscriber : public std::enable_shared_from_this<Subscriber> {
public:
    explicit Subscriber(Socket socket) : stream(std::move(socket)) { prepare(stream); }
    ~Subscriber() { room.erase(this); }

    void start()
    {
        stream.async_accept([self = shared_from_this()](error_code failed) {
            if (failed)
                return;
            room.insert(self.get());
            self->read();
        });
    }

private:
    void read()
    {
        stream.async_read(buffer, [self = shared_from_this()](error_code failed, std::size_t) {
            if (failed) {
                room.erase(self.get());
                return;
            }
            auto message = std::make_shared<const Message>(
                Message{self->stream.got_text(), beast::buffers_to_string(self->buffer.data())});
            self->buffer.clear();
            for (Subscriber *each : room)
                each->send(message);
            self->read();
        });
    }

    void send(const std::shared_ptr<const Message> &message)
    {
        queue.push_back(message);
        if (queue.size() == 1)
            write();
    }

    void write()
    {
        stream.text(queue.front()->is_text);
        stream.async_write(asio::buffer(queue.front()->bytes), [self = shared_from_this()](error_code failed, std::size_t) {
            if (failed)
                return;
            self->queue.pop_front();
            if (!self->queue.empty())
                self->write();
        });
    }

    static inline std::unordered_set<Subscriber *> room;
    Stream stream;
    beast::flat_buffer buffer;
    std::deque<std::shared_ptr<const Message>> queue;
};

template <class Session>
static void accept(Acceptor &acceptor)
{
    acceptor.async_accept([&acceptor](error_code failed, Socket socket) {
        if (!failed) {
            socket.set_option(tcp::no_delay(true));
            std::make_shared<Session>(std::move(socket))->start();
        }
        accept<Session>(acceptor);
    });
}

int main(int argc, char **argv)
{
    std::string host = "127.0.0.1", port = "0";
    bool with_topic = false;
    for (int i = 1; i < argc; i++) {
        std::string word = argv[i], address = i + 1 < argc ? argv[i + 1] : "";
        std::size_t colon = address.rfind(':');
        if (word == "--topic") {
            with_topic = true;
        } else if (word == "--listen" && colon != std::string::npos) {
            host = address.substr(0, colon);
            port = address.substr(colon + 1);
            i++;
        } else {
            std::fprintf(stderr, "usage: beast [--listen 127.0.0.1:0] [--topic]\n");
            return 1;
        }
    }
    std::signal(SIGTERM, [](int) { _exit(0); });
    rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    asio::io_context context{BOOST_ASIO_CONCURRENCY_HINT_UNSAFE};
    Acceptor acceptor(context, tcp::endpoint(asio::ip::make_address(host), static_cast<unsigned short>(std::stoi(port))));
    acceptor.listen(4096);
    std::printf("listening on %s:%d\n", host.c_str(), acceptor.local_endpoint().port());
    std::fflush(stdout);
    if (with_topic)
        accept<Subscriber>(acceptor);
    else
        accept<Echo>(acceptor);
    context.run();
    return 1;
}
