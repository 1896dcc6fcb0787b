// Where libfullduplex is, and how the runtime gets to know it.
using System;
using System.Collections.Generic;
using System.IO;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FullDuplex
{
    internal static class NativeFile
    {
        /// <summary>Names the library's file by hand, before any other place is looked at.</summary>
        private const string Variable = "FULLDUPLEX_LIBRARY";

        static NativeFile() => TellTheRuntime();

        /// <summary>
        /// To be called before anything that calls the library is even compiled, because Mono looks for a function when it
        /// compiles its caller. So the static constructor of every class in which a program may begin calls this, and what
        /// their other constructors and properties want of the library stands in methods that are not inlined.
        /// </summary>
        [MethodImpl(MethodImplOptions.NoInlining)]
        internal static void IsKnown()
        {
        }

        /// <summary>Where no file is found, the runtime looks in its own places.</summary>
        private static void TellTheRuntime()
        {
#if NETCOREAPP3_1
            NativeLibrary.SetDllImportResolver(typeof(Native).Assembly, (name, assembly, places) =>
                name == Native.Library && Find() is string file ? NativeLibrary.Load(file) : IntPtr.Zero);
#else
            // Of the runtimes that take these builds, Mono is the one that must be told.
            if (Type.GetType("Mono.Runtime") != null && Find() is string file)
                mono_dllmap_insert(IntPtr.Zero, Native.Library, null, file, null);
#endif
        }

        /// <summary>The first that is there: what the variable names, the package's folder, beside the assembly, a checkout.</summary>
        private static string? Find()
        {
            string? named = Environment.GetEnvironmentVariable(Variable);
            if (!string.IsNullOrEmpty(named))
                return File.Exists(named) ? named : throw new DllNotFoundException($"{Variable} names {named}, and there is no such file.");
            foreach (string folder in Folders())
            {
                string file = Path.Combine(folder, Name);
                if (File.Exists(file))
                    return file;
            }
            return null;
        }

        private static IEnumerable<string> Folders()
        {
            string home = Path.GetDirectoryName(typeof(Native).Assembly.Location) is string place && place != ""
                ? place
                : AppContext.BaseDirectory;
            yield return Path.Combine(home, "runtimes", Platform, "native");
            yield return home;
            for (DirectoryInfo? folder = new DirectoryInfo(home); folder != null; folder = folder.Parent)
                if (File.Exists(Path.Combine(folder.FullName, "include", "fullduplex.h")))
                    yield return Path.Combine(folder.FullName, "target", "release");
        }

        private static string Name =>
            RuntimeInformation.IsOSPlatform(OSPlatform.Windows) ? "fullduplex.dll" :
            RuntimeInformation.IsOSPlatform(OSPlatform.OSX) ? "libfullduplex.dylib" : "libfullduplex.so";

        private static string Platform =>
            (RuntimeInformation.IsOSPlatform(OSPlatform.Windows) ? "win-" :
             RuntimeInformation.IsOSPlatform(OSPlatform.OSX) ? "osx-" : "linux-")
            + RuntimeInformation.ProcessArchitecture.ToString().ToLowerInvariant();

#if !NETCOREAPP3_1
        [DllImport("__Internal", CharSet = CharSet.Ansi)]
        private static extern void mono_dllmap_insert(IntPtr assembly, string dll, string? function, string toDll, string? toFunction);
#endif
    }
}
