// The typed options, against the library's own table.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;

namespace FullDuplex.Tests
{
    internal sealed class OptionTests
    {
        private static readonly Type Rows = typeof(ServerOptions);

        private static List<string> Names() =>
            ((IEnumerable<string>)Rows.GetMethod("Rows", BindingFlags.Static | BindingFlags.NonPublic)!.Invoke(null, null)!).ToList();

        private static IEnumerable<PropertyInfo> Properties() => Rows.GetProperties().Where(property => property.GetIndexParameters().Length == 0);

        [Test]
        public void Each_row_of_the_librarys_table_has_its_property_and_each_property_its_row() =>
            Check.Sequence(
                Names().Select(name => name.Replace(".", "").Replace("_", "")).OrderBy(name => name, StringComparer.Ordinal),
                Properties().Select(property => property.Name.ToLowerInvariant()).OrderBy(name => name, StringComparer.Ordinal));

        [Test]
        public void Each_property_reads_its_default_and_takes_it_back()
        {
            foreach (PropertyInfo property in Properties())
            {
                var options = new ServerOptions();
                object? value = property.GetValue(options);
                if (value is string text && text == "" || value is IReadOnlyList<string> list && list.Count == 0)
                    continue; // "nothing" is no value of most of them
                property.SetValue(options, value);
                object? again = property.GetValue(options);
                if (value is IReadOnlyList<string> before)
                    Check.Sequence(before, (IReadOnlyList<string>)again!);
                else
                    Check.Equal(value, again);
            }
        }

        [Test]
        public void Sizes_times_lists_and_choices_have_types()
        {
            var options = new ServerOptions { MaxMessage = 1 << 20, PingInterval = TimeSpan.FromSeconds(1.5), Deflate = Deflate.Shared };
            Check.Equal(TimeSpan.FromSeconds(30), options.TimeoutWriteStall);
            Check.Equal(64 * 1024L, options.SendHighWater);
            Check.Equal(TimeSpan.FromSeconds(1.5), options.PingInterval);
            Check.Equal(1L << 20, options.MaxMessage);
            Check.Equal("shared", options["deflate"]);
            options["max.message"] = "2m";
            Check.Equal(2L << 20, options.MaxMessage);
            options.Versions = new[] { "13", "8" };
            Check.Sequence(new[] { "13", "8" }, options.Versions);
            options.Load("# mine\nthreads = 3\nlisten = 127.0.0.1:0\n");
            Check.Equal(3L, options.Threads);
            options.Listen = new[] { "127.0.0.1:1", "[::1]:2" };
            Check.Sequence(new[] { "127.0.0.1:1", "[::1]:2" }, options.Listen);
            Check.Equal("65536 16777216 fdx: ", $"{options.MaxTopics} {options.BackplaneLimit} {options.BackplanePrefix} {options.Backplane}");
            Check.True(!options.BackplaneSharded, "one connection of Redis has all channels");
            options.BackplaneSharded = true;
            Check.Equal("on True", $"{options["backplane.sharded"]} {options.BackplaneSharded}");
            foreach (string version in new[] { "1.2", "1.3" })
            {
                options["tls.min"] = version;
                Check.Equal("Tls" + version.Replace(".", ""), options.TlsMin.ToString());
            }
            foreach (ForwardedHeaders header in new[] { ForwardedHeaders.Off, ForwardedHeaders.XForwardedFor, ForwardedHeaders.Forwarded })
                Check.Equal(header, new ServerOptions { ForwardedHeaders = header }.ForwardedHeaders);
            foreach (ProxyProtocol version in new[] { ProxyProtocol.Off, ProxyProtocol.V1, ProxyProtocol.V2, ProxyProtocol.Any })
                Check.Equal(version, new ServerOptions { ProxyProtocol = version }.ProxyProtocol);
        }

        [Test]
        public void A_bad_option_is_refused_where_it_is_set_with_what_would_be_good()
        {
            var options = new ServerOptions();
            FullDuplexException unknown = Check.Throws<FullDuplexException>(() => options["max.mesage"] = "1m");
            Check.Equal(Status.Config, unknown.Status);
            Check.Contains("max.message", unknown.Message);
            Check.Contains("max.message", Check.Throws<FullDuplexException>(() => options.MaxMessage = -1).Message);
            Check.Contains("threads", Check.Throws<FullDuplexException>(() => options.Load("threads = many")).Message);
            Check.Throws<ArgumentException>(() => options["max.message"] = "1\0m");
            Check.Equal(16L << 20, options.MaxMessage);
        }

        [Test]
        public void The_same_options_make_several_servers()
        {
            var options = new ServerOptions { Listen = new[] { "127.0.0.1:0" }, MaxMessage = 1000 };
            using var one = new WebSocketServer(options);
            using var two = new WebSocketServer(options);
            one.Start(socket => { });
            two.Start(socket => { });
            Check.True(one.Port != two.Port, "each has its port");
        }
    }
}
