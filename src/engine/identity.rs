//! Who a client is: the socket's other end, or whom a trusted proxy names in its place, by the
//! PROXY protocol before everything else or in a header of each request.

use std::net::{IpAddr, SocketAddr};

use log::{info, warn};

use super::Engine;
use super::connection::{Flags, Stage};
use crate::config::Proxies;
use crate::driver::Endpoint;
use crate::id::Slot;
use crate::protocol::forwarded::{self, ForwardedHeaders};
use crate::protocol::http::{Refusal, Request};
use crate::protocol::proxy::{Announced, ProxyError, ProxyVersions};

impl Proxies {
    fn trusts(&self, end: Endpoint) -> bool {
        match end.ip() {
            Some(ip) => self.trusted.contains(ip),
            None => self.trusted.contains_unix(),
        }
    }

    /// Must a connection from there begin with the PROXY protocol?
    pub(super) fn announces(&self, peer: Endpoint) -> bool {
        self.versions != ProxyVersions::Off && self.trusts(peer)
    }

    /// Will a connection from there say later whose it is?
    pub(super) fn names_later(&self, peer: Endpoint) -> bool {
        let is_asked = self.versions != ProxyVersions::Off || self.forwarded != ForwardedHeaders::Off;
        is_asked && self.trusts(peer)
    }
}

impl Engine {
    /// Options that together do nothing are a mistake.
    pub fn warn_of_settings(&self) {
        let Proxies { trusted, versions, forwarded } = &self.settings.proxies;
        let is_asked = *versions != ProxyVersions::Off || *forwarded != ForwardedHeaders::Off;
        if self.shard == 0 && is_asked && trusted.is_empty() {
            warn!(target: "fullduplex::config",
                "proxy.protocol and forwarded.headers do nothing while proxy.trusted names nobody");
        }
    }

    /// The client, as far as it is known.
    pub(super) fn client(&self, slot: Slot) -> Endpoint {
        let rare = self.connections[slot as usize].rare.as_ref();
        let named = rare.and_then(|rare| rare.forwarded.or(rare.announced));
        named.map_or_else(|| self.entry(slot).peer(), Endpoint::Internet)
    }

    pub(super) fn announced(&mut self, slot: Slot, announced: Announced) {
        if let Some(source) = announced.source {
            self.connections[slot as usize].rare.get_or_insert_default().announced = Some(source);
            self.tell_remote(slot, source);
        }
        let proxies = &self.settings.proxies;
        // A proxy in front of the proxy will name the client in the request.
        if proxies.forwarded == ForwardedHeaders::Off || !proxies.trusts(self.client(slot)) {
            self.count_client(slot);
        }
    }

    /// The proxy, or whoever connects in its place, breaks its protocol.
    pub(super) fn misannounced(&mut self, slot: Slot, error: ProxyError) {
        let id = self.connections[slot as usize].id;
        info!(target: "fullduplex::handshake", conn = id.to_u64(); "cut {}: {error}", self.client(slot));
        self.table.counters.handshake_errors.add(1);
        self.set_stage(slot, Stage::Gone { reset: true });
    }

    /// Now that there is a request the client is known, and counts. False: it was refused.
    pub(super) fn learn_client(&mut self, slot: Slot, request: &Request) -> bool {
        let proxies = &self.settings.proxies;
        if proxies.forwarded != ForwardedHeaders::Off && proxies.trusts(self.client(slot)) {
            if let Some(client) = forwarded::client(request, proxies.forwarded, &proxies.trusted) {
                self.connections[slot as usize].rare.get_or_insert_default().forwarded = Some(client);
                self.tell_remote(slot, client);
            }
        }
        self.connections[slot as usize].flags.contains(Flags::COUNTED) || self.count_client(slot)
    }

    /// Counts the client by its address. False: it was refused.
    pub(super) fn count_client(&mut self, slot: Slot) -> bool {
        let Some(ip) = self.counted_address(slot) else { return true };
        match self.gate.enter_from(ip, &self.settings.limits, self.now) {
            Ok(is_counted) => self.connections[slot as usize].flags.set(Flags::COUNTED, is_counted),
            Err(refusal) => {
                self.table.counters.rate_limited.add(1);
                // From now on it takes nobody's place.
                self.gate.leave();
                self.connections[slot as usize].flags.remove(Flags::ENTERED);
                self.refuse_at_gate(slot, refusal);
                return false;
            }
        }
        true
    }

    /// Of IPv6 the network counts: who has one address there has 2^64.
    fn counted_address(&self, slot: Slot) -> Option<IpAddr> {
        Some(match self.client(slot).ip()? {
            IpAddr::V6(ip) => IpAddr::V6((ip.to_bits() & IPV6_NETWORK).into()),
            v4 => v4,
        })
    }

    /// A refusal has its price, too: a storm of refused ones is only cut.
    pub(super) fn refuse_at_gate(&mut self, slot: Slot, refusal: Refusal) {
        self.refused_at_gate += 1;
        match self.refused_at_gate > REFUSED_AT_GATE_MAX {
            true => self.set_stage(slot, Stage::Gone { reset: false }),
            false => self.refuse(slot, refusal),
        }
    }

    pub(super) fn uncount_client(&mut self, slot: Slot) {
        if self.connections[slot as usize].flags.take(Flags::COUNTED) {
            let ip = self.counted_address(slot).expect("who has no address is not counted");
            self.gate.leave_from(ip);
        }
    }

    /// Before the next request: it may be another client's. A proxy's own announcement stays.
    pub(super) fn forget_client(&mut self, slot: Slot) {
        let Some(rare) = &self.connections[slot as usize].rare else { return };
        if rare.forwarded.is_some() {
            self.uncount_client(slot);
        }
        let Some(rare) = &mut self.connections[slot as usize].rare else { return };
        rare.forwarded = None;
        if let Some(source) = rare.announced {
            self.tell_remote(slot, source);
        }
    }

    fn tell_remote(&mut self, slot: Slot, remote: SocketAddr) {
        self.connections[slot as usize].flags.insert(Flags::HAS_SIDE);
        self.table.set_remote(slot, remote);
    }
}

/// Connections of a shard that are being told that they can't come in.
const REFUSED_AT_GATE_MAX: usize = 1024;
/// A network has 64 bits, and its hosts the others (RFC 7421).
const IPV6_NETWORK: u128 = !0 << 64;
