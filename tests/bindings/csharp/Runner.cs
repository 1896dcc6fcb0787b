// Runs the tests of this assembly one after the other, on whatever runtime it was started with.
//
//   FullDuplex.Tests                 all, as a line of JSON each; exit code 1 if one failed
//   FullDuplex.Tests Name            those whose name contains it
//   FullDuplex.Tests --layouts       what the binding thinks the header says, as JSON (see Layouts.cs)
//   FullDuplex.Tests --exit PLACE    ends in the middle of traffic (see Exits.cs)
using System;
using System.Collections.Generic;
using System.Diagnostics;
using System.Linq;
using System.Reflection;
using System.Runtime.ExceptionServices;
using System.Text;
using System.Threading.Tasks;

namespace FullDuplex.Tests
{
    /// <summary>A method without parameters that throws if its name is not true.</summary>
    [AttributeUsage(AttributeTargets.Method)]
    internal sealed class TestAttribute : Attribute
    {
        public int SecondsMax { get; set; } = 30;
    }

    internal static class Check
    {
        public static void Equal<T>(T expected, T actual)
        {
            if (!EqualityComparer<T>.Default.Equals(expected, actual))
                throw new Exception($"expected <{expected}>, got <{actual}>");
        }

        public static void Sequence<T>(IEnumerable<T> expected, IEnumerable<T> actual) =>
            Equal(string.Join(" | ", expected), string.Join(" | ", actual));

        public static void Contains(string part, string whole) => True(whole.Contains(part), $"<{whole}> should contain <{part}>");

        public static void True(bool condition, string what)
        {
            if (!condition)
                throw new Exception(what);
        }

        public static T Throws<T>(Action action) where T : Exception
        {
            try
            {
                action();
            }
            catch (T expected)
            {
                return expected;
            }
            throw new Exception($"no {typeof(T).Name} was thrown");
        }

        public static async Task<T> Throws<T>(Func<Task> action) where T : Exception
        {
            try
            {
                await action();
            }
            catch (T expected)
            {
                return expected;
            }
            throw new Exception($"no {typeof(T).Name} was thrown");
        }
    }

    internal static class Runner
    {
        private static int Main(string[] arguments)
        {
            switch (arguments.FirstOrDefault())
            {
                case "--layouts":
                    Console.WriteLine(Layouts.ToJson());
                    return 0;
                case "--exit":
                    return Exits.Run(arguments[1]);
                default:
                    return RunTests(arguments.FirstOrDefault() ?? "");
            }
        }

        private static int RunTests(string filter)
        {
            int failed = 0, all = 0;
            foreach (MethodInfo test in Tests().Where(test => Name(test).Contains(filter)))
            {
                var clock = Stopwatch.StartNew();
                Exception? error = Run(test, test.GetCustomAttribute<TestAttribute>()!.SecondsMax);
                all++;
                failed += error == null ? 0 : 1;
                Console.WriteLine($"{{\"test\": {Quote(Name(test))}, \"seconds\": {clock.ElapsedMilliseconds / 1000}.{clock.ElapsedMilliseconds % 1000:000}, "
                    + $"\"error\": {(error == null ? "null" : Quote(error.ToString()))}}}");
            }
            return failed == 0 && all > 0 ? 0 : 1;
        }

        private static IEnumerable<MethodInfo> Tests() =>
            Assembly.GetExecutingAssembly().GetTypes().SelectMany(type => type.GetMethods())
                .Where(method => method.GetCustomAttribute<TestAttribute>() != null);

        private static string Name(MethodInfo test) => $"{test.DeclaringType!.Name}.{test.Name}";

        private static Exception? Run(MethodInfo test, int secondsMax)
        {
            try
            {
                Task run = Task.Run(async () =>
                {
                    object suite = Activator.CreateInstance(test.DeclaringType!)!;
                    try
                    {
                        if (test.Invoke(suite, null) is Task task)
                            await task;
                    }
                    catch (TargetInvocationException thrown)
                    {
                        ExceptionDispatchInfo.Capture(thrown.InnerException!).Throw();
                    }
                    finally
                    {
                        (suite as IDisposable)?.Dispose();
                    }
                });
                return run.Wait(TimeSpan.FromSeconds(secondsMax)) ? null : new TimeoutException($"not done in {secondsMax} s");
            }
            catch (AggregateException thrown)
            {
                return thrown.GetBaseException();
            }
        }

        internal static string Quote(string text)
        {
            var quoted = new StringBuilder("\"");
            foreach (char letter in text)
                quoted.Append(letter == '"' || letter == '\\' ? "\\" + letter : letter < ' ' ? $"\\u{(int)letter:x4}" : letter.ToString());
            return quoted.Append('"').ToString();
        }
    }
}
