// What the binding thinks the header says, for tests/bindings to compare with it.
using System;
using System.Collections.Generic;
using System.Linq;
using System.Reflection;
using System.Runtime.InteropServices;

namespace FullDuplex.Tests
{
    internal static class Layouts
    {
        private const BindingFlags Everything =
            BindingFlags.Static | BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic;

        private static readonly Type Native = typeof(WebSocketServer).Assembly.GetType("FullDuplex.Native", true)!;

        /// <summary>{"structs": {name: {"size": n, "offsets": {field: n}}}, "constants": {name: n}}</summary>
        internal static string ToJson() => Object(new Dictionary<string, string>
        {
            ["structs"] = Object(Structs().ToDictionary(type => type.Name, Layout)),
            ["constants"] = Object(Native.GetFields(Everything).Where(field => field.IsLiteral && field.FieldType != typeof(string))
                .ToDictionary(field => field.Name, field => $"{field.GetRawConstantValue()}")),
        });

        private static IEnumerable<Type> Structs() => Native.GetNestedTypes(Everything).Where(type => type.IsValueType);

        private static string Layout(Type type) => Object(new Dictionary<string, string>
        {
            ["size"] = $"{Marshal.SizeOf(type)}",
            ["offsets"] = Object(type.GetFields(Everything).ToDictionary(
                field => field.Name.TrimStart('@'), field => $"{Marshal.OffsetOf(type, field.Name)}")),
        });

        private static string Object(Dictionary<string, string> members) =>
            "{" + string.Join(", ", members.Select(member => $"{Runner.Quote(member.Key)}: {member.Value}")) + "}";
    }
}
