"""What guests of a small hotel say, in three languages and four intents: the raw text of the kit `languages`. Our own words, CC BY 4.0."""

THINGS = {
    "en": ("towel", "pillow", "blanket", "kettle", "adapter", "hairdryer"),
    "de": ("Handtuch", "Kissen", "Bügeleisen", "Ladegerät", "Glas", "Bett"),
    "fr": ("oreiller", "sèche-cheveux", "adaptateur", "verre", "peignoir", "drap"),
}
TIMES = {"en": ("seven", "nine", "noon"), "de": ("sieben", "neun", "zwölf"), "fr": ("sept heures", "neuf heures", "midi")}
# {intent: {language: forms}}; {thing} and {time} are filled in. A form is a source: its sentences stay on one side of a split.
FORMS = {
    "bring": {
        "en": ("Could you bring me another {thing}?", "My room has no {thing}.", "We need one more {thing}, please.", "Is it possible to get a {thing}?", "The {thing} is missing."),
        "de": ("Könnten Sie mir noch ein {thing} bringen?", "In meinem Zimmer fehlt ein {thing}.", "Wir brauchen noch ein {thing}, bitte.", "Kann ich ein {thing} bekommen?", "Hier ist kein {thing}."),
        "fr": ("Pourriez-vous m'apporter un autre {thing} ?", "Il n'y a pas de {thing} dans ma chambre.", "Il nous faut encore un {thing}, s'il vous plaît.", "Je peux avoir un {thing} ?", "Le {thing} manque."),
    },
    "repair": {
        "en": ("The {thing} is broken.", "My {thing} does not work.", "Somebody should look at the {thing}.", "There is something wrong with the {thing}.", "I think the {thing} is damaged."),
        "de": ("Das {thing} ist kaputt.", "Mein {thing} ist nicht in Ordnung.", "Jemand sollte nach dem {thing} sehen.", "Mit dem {thing} stimmt etwas nicht.", "Ich glaube, das {thing} ist beschädigt."),
        "fr": ("Le {thing} est cassé.", "Mon {thing} ne va pas.", "Quelqu'un devrait regarder le {thing}.", "Il y a un problème avec le {thing}.", "Je crois que le {thing} est abîmé."),
    },
    "wake": {
        "en": ("Please wake me at {time}.", "Can I have a call at {time}?", "I have to get up at {time}.", "Ring me at {time}, please.", "Do not let me sleep past {time}."),
        "de": ("Bitte wecken Sie mich um {time}.", "Kann ich um {time} einen Anruf haben?", "Ich muss um {time} aufstehen.", "Klingeln Sie bitte um {time}.", "Lassen Sie mich nicht länger als bis {time} schlafen."),
        "fr": ("Réveillez-moi à {time}, s'il vous plaît.", "Je peux avoir un appel à {time} ?", "Je dois me lever à {time}.", "Sonnez à {time}, s'il vous plaît.", "Ne me laissez pas dormir après {time}."),
    },
    "leave": {
        "en": ("We are leaving at {time}.", "Can I pay at {time}?", "I would like to check out at {time}.", "Could the bill be ready by {time}?", "Our taxi comes at {time}, the bill please."),
        "de": ("Wir reisen um {time} ab.", "Kann ich um {time} zahlen?", "Ich möchte um {time} auschecken.", "Könnte die Rechnung um {time} fertig sein?", "Unser Taxi kommt um {time}, die Rechnung bitte."),
        "fr": ("Nous partons à {time}.", "Je peux payer à {time} ?", "Je voudrais rendre la chambre à {time}.", "La note pourrait être prête à {time} ?", "Notre taxi vient à {time}, la note s'il vous plaît."),
    },
}  # fmt: skip
