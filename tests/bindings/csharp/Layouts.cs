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

        /// <summary>
        /// {"structs": {name: {"size": n, "fields": {field: [offset, size]}}}, "constants": {name: n}, "functions": {name: arguments}},
        /// the constants without their prefix.
        /// </summary>
        internal static string ToJson() => Object(new Dictionary<string, string>
        {
            ["structs"] = Object(Structs().ToDictionary(type => type.Name, Layout)),
            ["constants"] = Object(Constants().ToDictionary(field => field.Name.Substring("FDX_".Length), Value)),
            ["functions"] = Object(Functions().ToDictionary(method => method.Name, method => $"{method.GetParameters().Length}")),
        });

        private static IEnumerable<Type> Structs() =>
            Native.GetNestedTypes(Everything).Where(type => type.IsValueType && type.Name.StartsWith("fdx_", StringComparison.Ordinal));

        private static IEnumerable<FieldInfo> Constants() =>
            Native.GetFields(Everything).Where(field => field.Name.StartsWith("FDX_", StringComparison.Ordinal));

        private static IEnumerable<MethodInfo> Functions() =>
            Native.GetMethods(Everything).Where(method => method.Name.StartsWith("fdx_", StringComparison.Ordinal));

        private static string Value(FieldInfo constant) =>
            constant.GetValue(null) is UIntPtr length ? $"{unchecked((long)length.ToUInt64())}" : $"{constant.GetValue(null)}";

        private static string Layout(Type type) => Object(new Dictionary<string, string>
        {
            ["size"] = $"{Marshal.SizeOf(type)}",
            ["fields"] = Object(type.GetFields(Everything).ToDictionary(field => field.Name,
                field => $"[{Marshal.OffsetOf(type, field.Name)}, {(field.FieldType.IsPointer ? IntPtr.Size : Marshal.SizeOf(field.FieldType))}]")),
        });

        private static string Object(Dictionary<string, string> members) =>
            "{" + string.Join(", ", members.Select(member => $"{Runner.Quote(member.Key)}: {member.Value}")) + "}";
    }
}
