#!/usr/bin/perl
# Talks to an echo server by Perl's Protocol::WebSocket.
#
#   protocol_websocket.pl PORT VERSION < texts.json > result.json
#
# VERSION is the library's own word: draft-hixie-75, draft-ietf-hybi-00 (Hixie-76),
# draft-ietf-hybi-10 (version 8) or draft-ietf-hybi-17 (version 13).

use strict;
use warnings;
use Encode qw(encode decode);
use IO::Socket::INET;
use JSON::PP;
use Protocol::WebSocket::Frame;
use Protocol::WebSocket::Handshake::Client;

my ($port, $version) = @ARGV;
my $hixie = $version =~ /hixie-75|hybi-00/;
my $texts = JSON::PP->new->utf8->decode(join '', <STDIN>);

my $socket = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Proto => 'tcp') or die "connect: $!";
$socket->autoflush(1);

my $handshake = Protocol::WebSocket::Handshake::Client->new(url => "ws://127.0.0.1:$port/echo?from=perl", version => $version);
my $incoming = Protocol::WebSocket::Frame->new(version => $version, max_payload_size => 0);

print $socket $handshake->to_string;
until ($handshake->is_done) {
    my $bytes = receive();
    die "the server ended within the handshake" if $bytes eq '';
    $handshake->parse($bytes) or die "handshake: " . $handshake->error;
    $incoming->append($bytes) if $handshake->is_done;    # what the handshake left over
}

# Perl's `UTF-8` refuses U+FFFF and its like, which are fine on the wire; its `utf8` does not.
my @received;
for my $text (@$texts) {
    send_frame(buffer => encode('utf8', $text));
    push @received, decode('utf8', next_message());
}

my $close;
if ($version eq 'draft-hixie-75') {
    shutdown $socket, 1;                                  # it has no other goodbye
    $close = 'nothing';
}
else {
    send_frame(type => 'close', buffer => $hixie ? '' : pack('n', 1000));
    my $payload = next_message();
    die "no close frame" unless $incoming->is_close;
    $close = $hixie ? 'FF 00' : unpack('n', $payload);
}
my $rest = receive();
die "bytes after the end" if $rest ne '';

print JSON::PP->new->ascii->canonical->encode({ received => \@received, close => "$close, then the end" });

# --------------------------------------------------------------------------------------------

sub send_frame {
    print $socket Protocol::WebSocket::Frame->new(version => $version, masked => 1, max_payload_size => 0, @_)->to_bytes;
}

sub next_message {
    while (1) {
        my $message = $incoming->next_bytes;
        return $message if defined $message;
        my $bytes = receive();
        die "the server ended instead of answering" if $bytes eq '';
        $incoming->append($bytes);
    }
}

sub receive {
    my $count = sysread $socket, my $bytes, 65536;
    die "read: $!" unless defined $count;
    return $bytes;
}
