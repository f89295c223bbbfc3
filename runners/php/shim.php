<?php

// naq's shim for PHP: calls one function for one job. What comes with PHP only; PHP 8.1 and newer.
//
// `runners/README.md` describes the contract: the call is JSON in the file `$NAQ_CALL_FILE`, the result and the error
// go to the control channel, and stdin, stdout and stderr are the job's.

namespace Naq {
    /** Ends the job with the exit code that means "try again": `throw new Naq\Retry('busy', after: '30s')`. */
    class Retry extends \RuntimeException
    {
        public function __construct(
            string $message = 'retry',
            public readonly string|int|float|null $after = null,
            ?\Throwable $previous = null,
        ) {
            parent::__construct($message, 0, $previous);
        }
    }

    /** Fails the job, and no attempt follows. */
    class Fatal extends \RuntimeException
    {
    }
}

namespace Naq\Shim {
    const RETRY_EXIT_CODE = 75;
    // what a line of the control channel may have, unless the worker says otherwise; longer lines are dropped
    const LINE_MAX = 256 * 1024;
    // as in an envelope
    const DEPTH_MAX = 64;
    const MESSAGE_MAX = 4000;
    const TRACE_MAX = 32000;
    const JSON = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_PRESERVE_ZERO_FRACTION | JSON_THROW_ON_ERROR;

    /** The file or the function does not exist. */
    final class NotFound extends \RuntimeException
    {
    }

    /** JSON cannot hold the result. */
    final class SerializationError extends \RuntimeException
    {
    }

    // --- values ---

    /** The value as what JSON writes unchanged. What JSON cannot hold is an error with its path. */
    function to_json(mixed $value, string $path, int $depth = 1): mixed
    {
        if ($depth > DEPTH_MAX) {
            $max = DEPTH_MAX;
            throw new SerializationError("$path: more than $max levels of nesting, or a reference to itself");
        }
        if ($value === null || is_bool($value) || is_int($value)) {
            return $value;
        }
        if (is_float($value)) {
            return is_finite($value) ? $value : throw new SerializationError("$path: JSON cannot hold the number $value");
        }
        if (is_string($value)) {
            return text($value, $path);
        }
        if ($value instanceof \JsonSerializable) {
            return to_json($value->jsonSerialize(), $path, $depth);
        }
        if (is_array($value) && array_is_list($value)) {
            $converted = [];
            foreach ($value as $index => $item) {
                $converted[] = to_json($item, "{$path}[$index]", $depth + 1);
            }
            return $converted;
        }
        if (!is_array($value) && !$value instanceof \stdClass) {
            $kind = get_debug_type($value);
            $hint = match (true) {
                $value instanceof \DateTimeInterface => '; return its `format(DATE_ATOM)`',
                $value instanceof \BackedEnum => '; return its `->value`',
                $value instanceof \Traversable => '; return its `iterator_to_array()`',
                is_object($value) => '; return an array, or implement JsonSerializable',
                default => '',
            };
            throw new SerializationError("$path: JSON cannot hold a $kind$hint");
        }
        $converted = new \stdClass();
        foreach ($value as $key => $item) {
            if (is_int($key)) {
                throw new SerializationError("$path: the key $key is an int, and the array is no list; keys in JSON are strings");
            }
            text($key, "a key of $path");
            $inner = preg_match('/\A[A-Za-z_]\w*\z/', $key) ? "$path.$key" : "{$path}['$key']";
            $converted->{$key} = to_json($item, $inner, $depth + 1);
        }
        return $converted;
    }

    function text(string $value, string $path): string
    {
        if (preg_match('//u', $value) !== 1) {
            throw new SerializationError("$path: the text is not valid UTF-8; return base64");
        }
        return $value;
    }

    // --- the control channel ---

    function line_max(): int
    {
        return (int) (getenv('NAQ_CONTROL_LINE_MAX') ?: LINE_MAX);
    }

    function write_control(string $line): void
    {
        static $control = null;
        // a duplicate, which the job does not close by mistake
        $control ??= fopen('php://fd/3', 'w');
        for ($line .= "\n"; $line !== ''; $line = substr($line, $written)) {
            $written = @fwrite($control, $line);
            if ($written === false || $written === 0) {
                // the worker has gone
                return;
            }
        }
    }

    function write_result(mixed $value): void
    {
        $line = json_encode(['result' => to_json($value, 'result')], JSON, DEPTH_MAX + 8);
        $size = strlen($line) + 1;
        if ($size > line_max()) {
            $max = line_max();
            throw new SerializationError("result: $size bytes of JSON, and at most $max are kept; write it to stdout or to a file");
        }
        write_control($line);
    }

    function write_error(string $type, string $message, string $trace, ?bool $retry = null): void
    {
        for ($size = TRACE_MAX; ; $size = intdiv($size, 2)) {
            $error = ['type' => $type, 'message' => shortened($message, min($size, MESSAGE_MAX)), 'trace' => shortened($trace, $size)];
            if ($retry !== null) {
                $error['retry'] = $retry;
            }
            $line = json_encode(['error' => $error], JSON | JSON_INVALID_UTF8_SUBSTITUTE);
            if (strlen($line) < line_max() || $size < 16) {
                write_control($line);
                return;
            }
        }
    }

    /** A text of at most about this many bytes, half of them from its beginning, half from its end. */
    function shortened(string $text, int $size): string
    {
        if (strlen($text) <= $size) {
            return $text;
        }
        $half = intdiv($size, 2);
        return substr($text, 0, $half) . "\n[" . (strlen($text) - 2 * $half) . " characters left out]\n" . substr($text, -$half);
    }

    // --- the function ---

    function find_function(string $call, array $folders): callable
    {
        if (!preg_match('/\A(.*[^:]):([\w\\\\]+(?:::\w+)?)\z/s', $call, $found)) {
            throw new NotFound("`$call` is not `file.php:function` or `file.php:Class::method`");
        }
        [, $target, $name] = $found;
        $file = str_ends_with($target, '.php') ? $target : "$target.php";
        $places = array_map(fn ($folder) => str_starts_with($file, '/') ? $file : "$folder/$file", $folders);
        $places = array_values(array_unique($places));
        $existing = array_values(array_filter($places, is_file(...)));
        if ($existing === []) {
            throw new NotFound('no file ' . implode(' or ', $places));
        }
        load($existing[0]);
        if (!is_callable($name)) {
            throw new NotFound("`$target` has no function `$name`");
        }
        return $name;
    }

    function load(string $file): void
    {
        require_once $file;
    }

    /** Calls the function, reports its result or its error, and returns the exit code. */
    function run_call(array $call): int
    {
        $pid = getmypid();
        try {
            $folders = [...array_map(fn ($folder) => realpath($folder) ?: $folder, $call['module_path'] ?? []), getcwd()];
            set_include_path(implode(PATH_SEPARATOR, [...$folders, get_include_path()]));
            $function = find_function($call['call'], $folders);
            $value = $function(...($call['args'] ?? []), ...($call['kwargs'] ?? []));
            if (getmypid() !== $pid) {
                // a child that the function forked and that returned from it
                return 0;
            }
            flush_output();
            write_result($value);
            return 0;
        } catch (\Throwable $error) {
            return report_error($error, getmypid() === $pid);
        }
    }

    /** Reports an error, and returns the exit code. */
    function report_error(\Throwable $error, bool $is_job): int
    {
        flush_output();
        $trace = "$error";
        fwrite(STDERR, "$trace\n");
        if (!$is_job) {
            return 1;
        }
        $type = $error::class;
        if ($error instanceof \Naq\Retry) {
            if ($error->after !== null) {
                write_control(json_encode(['retry_after' => $error->after], JSON));
            }
            write_error($type, $error->getMessage(), $trace);
            return RETRY_EXIT_CODE;
        }
        if ($error instanceof NotFound || $error instanceof SerializationError) {
            write_error(substr($type, strlen(__NAMESPACE__) + 1), $error->getMessage(), $trace, false);
            return 1;
        }
        write_error($type, $error->getMessage(), $trace, $error instanceof \Naq\Fatal ? false : null);
        return 1;
    }

    function flush_output(): void
    {
        while (ob_get_level() > 0) {
            ob_end_flush();
        }
        flush();
    }

    function main(): int
    {
        // what PHP does not throw, such as too little memory
        register_shutdown_function(function () {
            $error = error_get_last();
            if ($error !== null && ($error['type'] & (E_ERROR | E_CORE_ERROR | E_COMPILE_ERROR)) !== 0) {
                write_error('error', $error['message'], "{$error['file']}:{$error['line']}");
            }
        });
        $file = getenv('NAQ_CALL_FILE');
        putenv('NAQ_CALL_FILE');
        unset($_SERVER['NAQ_CALL_FILE'], $_ENV['NAQ_CALL_FILE']);
        $call = json_decode(file_get_contents($file), true, 512, JSON_THROW_ON_ERROR);
        $_SERVER['argv'] = [$call['call']];
        $_SERVER['argc'] = 1;
        return run_call($call);
    }

    exit(main());
}
