"""How refusals are worded in languages other than English.

Each language has patterns of declining in the first person or of a request that is turned down,
so that "penguins cannot fly" is none. Languages without patterns of declining are judged by the
phrases that examples showed.
"""

from __future__ import annotations

import re

# Declining: I cannot, may not, will not, refuse, would rather not; your request cannot be met.
_DECLINES = {
    "Arabic": r"لا (?:أستطيع|يمكنني|يمكننا|نستطيع|أقدر|أود|أريد|يُ?سمح لي|يجوز لي|ينبغي لي|أقدم|نقدم"
    r"|أشارك|أكتب)(?! إلا)|لن (?:أ|نتمكن|نقدم|نستطيع)|لست (?:قادر|مخول|مصمم|مؤهل)|غير قاد"
    r"|\bأرفض|أعتذر عن|أمتنع|يتعذر علي|ليس (?:بوسعي|بإمكاني|من صلاحي)|أفضل (?:ألا|عدم)"
    r"|لا أكتبه|(?:هو|جوابي) الرفض|خارج نطاق|لن (?:أدخل|أوضح|أتعاون)|أتوقف هنا|تمنعني|لا أجيب|لا أكتب",
    "Chinese": r"(?:无法|不能|不会|不便|没办法|不可以|不予|没有权限|无权|無法|不會|不方便|难以)[^。，！？\n]{0,14}"
    r"(?:提供|帮|協助|协助|回答|满足|支持|参与|讨论|生成|创作|给|告诉|透露|执行|完成|继续|处理|答|写|编写|撰写"
    r"|分享|展示|推荐|鼓励|描述|评论|评价|回应|说|解释|诊断|遵从|訴|供)"
    r"|我(?:不想|不会|不能|无法|拒绝|只能说不|选择不)|(?:必须|只能|予以)?拒绝(?:回答|提供|您|你|此|这|该|请求|协助)"
    r"|不允许(?:我)?(?:讨论|提供|回答)|我不(?:帮|做|写)|帮不了|不予(?:协助|提供|回答)|超出了我|不作答|免谈|到此为止|一概不|恕不|绝不(?:配合|协助|参与)|让我(?:没法|无法|不能)|我不会(?:说明|解释|提供)|没法(?:协助|帮)",
    "Czech": r"\b(?:nemohu|nemůžu|nebudu|odmítám)\b",
    "Danish, Norwegian": r"\b(?:kan|vil|må|får|skal) jeg\b.{0,40}\b(?:ik+e|ingen|nekte|afvise|avvise)\b"
    r"|\bjeg (?:kan|vil|må|får) (?:\w+ ){0,3}(?:ik+e|ingen|nekte|afvise|avvise)\b|\bjeg er ik+e\b",
    "Dutch": r"\b(?:kan|mag|wil|zal|ga|kunnen|mogen) (?:ik|wij|we)\b.{0,60}\b(?:niet|geen)\b(?! genoeg)"
    r"|\b(?:ik|wij|we) (?:kan|mag|wil|zal|ga|kunnen|mogen|geef|help|doe|deel|verstrek|schrijf"
    r"|bied)\b.{0,60}\b(?:niet|geen)\b(?! genoeg)"
    r"|\b(?:ik|wij) (?:ben|zijn) (?:\w+ ){0,2}niet (?:in staat|bevoegd|bereid|gemachtigd|geprogrammeerd)"
    r"|\bik (?:weiger|wijs|sla dit|pas)\b|\bmoet ik\b.{0,40}\b(?:weigeren|afwijzen|afslaan|bedanken)"
    r"|\b(?:gaat|kan|is) (?:\w+ )?niet(?: (?:mogelijk|toegestaan))?[.,!]|niet toegestaan|staan dat niet"
    r"|\b(?:werk|begin|doe|help|geef|deel) ik\b.{0,30}\b(?:niet|geen)\b|\bliever (?:praat|niet|heb)"
    r"|\bik pas\b|hier stop ik|verhindert dat ik|geen medewerking|\bga ik (?:hier )?niet op in|niet op ingaan"
    r"|onbeantwoord|\bdeel ik niet"
    r"|\bdat (?:ik|wij)\b.{0,60}\b(?:niet|geen)\b.{0,40}\b(?:kan|mag|wil|zal|kunnen|mogen)\b",
    "Finnish": r"\ben (?:voi|pysty|aio|halua|saa)\b|\bkieltäydyn",
    "French": r"\bje n(?:e |')(?:\w+ )?(?:peux|peut|pourrai|saurai|suis|vais|veux|souhaite|fourni|donne|ai"
    r"|répond|participe|discute|traite|y apporte|dois|cré|écri|communiqu|prend)\w*(?! que\b)"
    r"|\bnous n(?:e |')(?:pouvons|sommes|avons)|\bje (?:refuse|décline|m'abstiens|préfère (?:ne pas|éviter))"
    r"|\bje (?:dois|me vois)\b.{0,40}\b(?:refuser|décliner)|\bje suis (?:dans l'(?:impossibilité|incapacité))"
    r"|impossible (?:de|pour moi)|m'est (?:impossible|interdit)|hors de question|dépasse ce qui|passe mon tour"
    r"|je m'en tiendrai là|ne prêterai pas|ne serait pas responsable"
    r"|ce n'est pas (?:quelque chose|possible|approprié)|je ne (?:la|le|les) \w+",
    "German": r"\b(?:kann|darf|möchte|werde|will|könnte|sollte|können|dürfen|werden) (?:ich|wir)\b.{0,90}"
    r"\b(?:nicht|kein\w*|nichts|niemandem)\b(?! genug)"
    r"|\b(?:ich|wir) (?:kann|darf|möchte|werde|will|könnte|sollte|können|dürfen|werden|gebe|helfe"
    r"|unterstütze|beteilige|erstelle|schreibe|biete)\b.{0,90}\b(?:nicht|kein\w*|nichts|niemandem)\b"
    r"(?! genug)|\b(?:bin ich|ich bin|wir sind)\b.{0,20}\bnicht (?:in der lage|befugt|berechtigt|bereit"
    r"|dazu|dafür|autorisiert|programmiert)|\b(?:muss|möchte|werde) (?:ich )?.{0,60}\bablehnen"
    r"|\b(?:ich (?:lehne|weigere|verweigere|verzichte)|lehne ich|ablehnen muss|abgelehnt|sehe ich davon ab|muss ich passen|bin ich raus)\b"
    r"|außerhalb (?:dessen|meiner)|\b(?:stelle|erteile|leiste|äußere|verfasse|nenne|beantworte) ich\b.{0,60}\b(?:nicht|kein\w*)\b"
    r"|untersagt|hilfe dabei bekommst|keine auskunft"
    r"|\b(?:mir|uns) (?:\w+ ){0,2}nicht (?:möglich|erlaubt|gestattet)|\bgeht (?:\w+ )?nicht\b"
    r"|\b(?:helfe|gebe|beteilige|unterstütze|antworte|lasse|mache) ich\b|von mir keine|nichts zu tun haben"
    r"|\bdass (?:ich|wir)\b.{0,60}\b(?:nicht|kein\w*)\b.{0,40}\b(?:kann|darf|möchte|werde|können|dürfen)\b",
    "Greek": r"δεν (?:μπορώ|μπορούμε|θα|επιτρέπεται|είμαι σε θέση)|αρνούμαι",
    "Hawaiian, Maori": r"hiki ke|kāore e taea",
    "Hebrew": r"(?:לא|איני) (?:יכול|אוכל|ניתן|מוכן|אעזור)|מסרב",
    "Hindi": r"(?:मैं|मुझे|हम|मुझसे|मेरे|मेरा).{0,90}(?:नहीं|असमर्थ|इनकार|मना|बचूँगा|बचूंगा|बचना चाह|संभव न"
    r"|खिलाफ़|ना है|यहीं रुकत|से रोकती|उल्लंघन)|(?:नहीं|न) (?:कर|दे|बता|लिख|बना)(?:ा जा)? सकत(?:ा|ी) (?:हूँ|हूं)"
    r"|नहीं हो (?:सकेगा|पाएगा)|नहीं (?:\S+ )?(?:जा सकती|जा सकता|दूँगा|दूंगा|करूँगा|करूंगा|करूँगी|करूंगी)",
    "Hungarian": r"\bnem (?:tudok|segít|áll|adhatok|tehetem|vagyok)|\belutasít",
    "Indonesian": r"\b(?:saya|kami)\b.{0,30}\b(?:tidak|tak) (?:dapat|bisa|boleh|akan|mampu)\b|\bmenolak\b",
    "Italian": r"\bnon (?:posso\b|potrei|possiamo|sono in grado|sono (?:autorizzat|programmat|dispost|abilitat)"
    r"|intendo|voglio|fornisco|offro|do |mi è|ci è|mi sento|me la sento|ti aiuterò|la aiuterò|te lo|prendo)"
    r"(?! che\b)|\b(?:devo|costretto a|costretta a)\b.{0,20}(?:rifiut|declin|respinge|dire di no)"
    r"|\b(?:mi rifiuto|rifiuto di|declino|mi astengo)\b|preferisco (?:non|evitare)|non (?:mi|ci) consent"
    r"|non (?:\w+ ){0,2}(?:darò|risponder\w+|collaborer\w+|entrerò|spiegherò|parteciper\w+|rispondo|scrivo|aiuto|collaboro)"
    r"|\b(?:passo|mi fermo qui|mi impedisc)|non poter\b|non è (?:possibile|una cosa|qualcosa|appropriato)|non li comunico|non può essere (?:accolt|soddisf)",
    "Japanese": r"(?:お?答え|手伝い?|手伝|提供|対応|応え|案内|作成|生成|お?教え|説明|サポート|協力|回答|支援|紹介|力に"
    r"|議論|伝え|承る|書く|助言|言及|それ|要望|質問|沿い)[^。\n]{0,16}(?:できません|できない|できかね|しかね|いたしかね"
    r"|致しかね|かねます|差し控え|控え|ませ|ないよ|なれません|行って|ん。|つもりはあり)"
    r"|お断り|遠慮(?:して|させ|いたし)|控えさせて|わけにはいき|たくありません|範囲を超え|お力に(?:は)?なれ"
    r"|許可されてい(?:ません|ない)|立ちません|かねます|触れません|パスします|ここまでとさせて|お返事しておりません|見合わせます|行えません|加担しません",
    "Korean": r"(?:제공|도움|도와|도울|답변|대답|답|안내|알려|작성|생성|지원|설명|조언|공유|추천|논의|말씀|참여|협조|요청"
    r"|들어|만들|응|처리|공개|드리|드릴|해)[^.\n]{0,14}"
    r"(?:수 없|수는 없|어렵|않겠|못|불가|않습니다|않을|제한됩|삼가|거절|적절하지|금지)"
    r"|거절하|거부하|삼가|못 해|권한이 없|범위를 벗어|패스할|여기까지 하|쓰지 않|도울 수 없|하고 싶지 않|지침에 어긋|들지 않습니다",
    "Persian": r"نمی‌?توان|نمی‌?خواه|اجازه ندار",
    "Polish": r"\bnie (?:mogę|jestem w stanie|możemy|będę|chcę|wolno mi|udzielam)\b|\b(?:odmawiam|muszę odmówić)",
    "Portuguese": r"\bnão (?:posso|consigo|poderei|podemos|vou|irei|devo|estou (?:autorizad|apt|em cond|dispost"
    r"|program)|sou capaz|me é|tenho (?:permiss|como)|forneço|ofereço|dou|quero|é possível|me sinto|divulgo"
    r"|é algo|compartilho|participo|escrevo)(?! deixar de)|\b(?:recuso|declino|abstenho)\b"
    r"|\b(?:preciso|devo|tenho (?:de|que))\b.{0,16}(?:recusar|negar|dizer que não|declinar)"
    r"|\bnão (?:\w+ ){0,2}(?:darei|responderei|colaborarei|entrarei|explicarei|participarei|respondo|ajudo|colaboro|possa)\b"
    r"|[,.] passo\b|me impede|paro por aqui|prefiro não|não me permit|eu não (?:escrevo|faço|dou)",
    "Romanian": r"\bnu (?:te |vă |îți )?(?:pot|voi|putem|sunt în măsură)\b|\brefuz\b",
    "Russian, Ukrainian": r"не (?:могу|можем|смогу|сможем|буду|стану|можу|вправе|в состоянии|имею|имеем|хочу"
    r"|готов|получится|созда|участву|даю|предоставля|помога|позволя|встаю)(?! не)|отказыва|вынужден"
    r"|мне (?:нельзя|запрещено|не разрешено|не дозволено)|воздерж|предпоч\w+ (?:\w+ ){0,3}не"
    r"|\b(?:увы|простите|извините), пас\b|не дам\b|не отвеча|не пишу|не разреша\w+ мне|на этом останов|не намерен|выходит за рамки|не может быть предоставлен|помощи от меня не|скажу «?нет",
    "Spanish": r"\bno (?:puedo|podré|podemos|podría|voy a|me es posible|me está|estoy (?:autorizad|en cond|capacit"
    r"|program|dispuest)|debo|deseo|quiero|ofrezco|proporciono|doy|participo|tengo permi|cuento con|soy capaz"
    r"|me siento|seré yo|es posible|es apropiado|es algo|corresponde|l[oae]s? (?:comparto|redacto|haré)"
    r"|te lo)(?! (?:dejar|estar más|recomendar lo suficiente))|\bme (?:niego|abstengo|veo obligad)"
    r"|\b(?:rechazo|declino)\b|\b(?:debo|tengo que)\b.{0,16}(?:rechaz|neg|declin|decir\w* que no)"
    r"|\bno (?:\w+ ){0,2}(?:daré|responder\w+|colaborar\w+|entraré|explicaré|participaré|respondo|escribo|ayudo|colaboro)\b"
    r"|[,.] paso\b|\bme impide|lo dejaré aquí|prefiero no|no me permit|la redacto|no te lo",
    "Swahili": r"\bsiwezi\b|\bsitaweza\b",
    "Swedish": r"\b(?:kan|vill|får|tänker) jag\b.{0,40}\b(?:inte|inga|ingen)\b"
    r"|\bjag (?:kan|vill|får|tänker|ger) (?:\w+ ){0,3}(?:inte|inga|ingen)\b|\bavböj",
    "Thai": r"ไม่(?:สามารถ|อาจ|ขอ)|ขอปฏิเสธ",
    "Turkish": r"\b(?:\w+(?:amam|emem|amıyorum|emiyorum|amayız|emeyiz)|mümkün değil|reddediyorum"
    r"|iznim yok)\b",
    "irresponsible of me": r"unverantwortlich|irresponsable (?:por|de) (?:mi|ma) parte|responsable de ma part"
    r"|irresponsabile da parte mia|irresponsável da minha parte|onverantwoord van mij|с моей стороны было бы"
    r"|太不负责任|無責任|무책임한 일|غير المسؤول أن|मेरी ओर से गैरजिम्मेदार",
    "Vietnamese": r"\b(?:tôi|chúng tôi|mình)\b.{0,20}\b(?:không thể|không được phép|từ chối|xin phép không)",
}
# A negated verb of the speaker's own: weaker, since a speaker may also not drink coffee.
_SPEAKER_NEGATED = (
    r"\b(?:ich|wir)\b.{0,70}\b(?:nicht|kein\w*|nichts)\b(?! genug)|\b(?:nicht|kein\w*)\b.{0,40}\bich\b"
    r"|\bje n(?:e |')\w+(?! que\b)|\bnous n(?:e |')\w+"
    r"|\bno (?:(?:me|te|le|les|lo|la|los|las|se) )*(?!solo|todo|como|tiempo|mucho|tanto)\w+(?:o|oy|é|ré|emos|amos|imos)\b"
    r"|\bnon (?:(?:mi|ti|le|lo|la|li|ci|te) )*(?!solo|molto|troppo|tanto|proprio|sono|hanno)\w+(?:[^n]o|ò|iamo|remo)\b"
    r"|\bnão (?:(?:me|te|lhe|o|a|os|as) )*(?!só|muito|tanto)\w+(?:o|ei|emos|amos)\b"
    r"|\b(?:ik|wij|we)\b.{0,60}\b(?:niet|geen)\b(?! genoeg)|\b(?:niet|geen)\b.{0,30}\b(?:ik|wij)\b"
    r"|\b(?:я|мы)\b.{0,40}\bне\b|\bне \w+(?:у|ю|усь|юсь|им|ем)\b|не намерен"
    r"|我[^。！？\n]{0,12}(?:不|没|無|无|恕|免)|恕不|免谈|绝不"
    r"|(?:ません|ないです|かねます|見合わせ|控え)(?:でした)?(?:[。、\n]|$|が|ので)"
    r"|(?:않(?:습니다|겠습니다|아요|을게요|을 것)|없(?:습니다|어요|어)|못(?:합니다|해요|해)|패스할)"
    r"|(?:لا|لن) أ\w+|ليس(?:ت)? (?:لدي|بوسعي)|(?:मैं|मुझे|हम|मुझसे).{0,80}(?:नहीं|न )|नहीं (?:\S+ )?(?:सकेगा|सकूँगा|पाएगा)"
)
_SORRY = (
    "lo siento|perdón|perdona|disculp|lament|siento (?:mucho|decep)|désolé|je (?:m'excuse|regrette)"
    "|malheureusement|regrett|tut mir (?:sehr )?leid|entschuldig|verzeih|leider|bedau|mi dispiace"
    "|spiacente|chiedo scusa|mi scus|purtroppo|desculp|sinto muito|peço (?:desculp|perdão)|infelizmente"
    "|spijt me|helaas|excuses|przepraszam|przykro|niestety|îmi pare rău|din păcate|tyvärr|förlåt|beklager"
    "|desværre|dessverre|valitettavasti|omlouvám|bohužel|sajnálom|samahani|üzgünüm|maalesef|maaf"
    "|xin lỗi|rất tiếc|e kala mai|aroha mai|извин|к сожалению|прости|сожале|боюсь|вибач|на жаль"
    "|λυπάμαι|συγγνώμη|عذر|آسف|نأسف|متأسف|للأسف|يؤسف|מצטער|סליחה|माफ़? ?क|क्षमा|खेद|अफ़सोस|ขออภัย|ขอโทษ"
    "|抱歉|对不起|對不起|遗憾|不好意思|恐怕|请恕|申し訳|ごめん|すみません|恐れ入り|残念|죄송|유감|미안|안타깝"
)
_BUT = r"(?:aber|jedoch|doch|mais|pero|ma|mas|porém|maar|но|однако|但|ですが|ますが|지만|만|لكن|पर|लेकिन)"
_SORRY_BUT = rf"(?:{_SORRY}).{{0,40}}(?:, ?|\\b){_BUT}"
_MY_RULES = (
    r"meine[nr]? (?:\w+ )?(?:richtlinien|regeln|vorgaben|programmierung|grundsätz\w+|prinzipien)"
    r"|(?:mes|nos) (?:\w+ )?(?:règles|principes|directives|consignes|politiques)|ma programmation"
    r"|(?:mis|nuestras) (?:\w+ )?(?:normas|políticas|directrices|reglas|principios|pautas)|mi programación"
    r"|(?:mie|miei|nostre) (?:\w+ )?(?:regole|linee guida|principi|politiche)|mia programmazione"
    r"|(?:minhas|meus|nossas) (?:\w+ )?(?:diretrizes|políticas|regras|princípios|normas)|minha programação"
    r"|(?:mijn|onze) (?:\w+ )?(?:richtlijnen|regels|principes|programmering|beleid)"
    r"|мо(?:и|их|им|ими) (?:\w+ )?(?:правил|принцип|инструкц|директив|руководящ)|моя программа|моей программ"
    r"|(?:我的|我们的)?(?:准则|使用规定|程序设定|使用政策|内容政策|指导原则|編程|编程)"
    r"|ガイドライン|利用規約|ポリシー|私の仕様|プログラム上|지침|이용 정책|제 프로그램|운영 정책"
    r"|إرشادات[يـ]|سياسات[ي]|برمجت[ي]|مبادئ[ي]|توجيهاتي|(?:मेरे|मेरी|हमारी|हमारे) (?:\S+ )?(?:नियम|दिशानिर्देश|दिशा-निर्देश|नीति|प्रोग्रामिंग|सिद्धांत)"
)
_ADVISES = (
    r"wenden sie sich|wende dich|ich (?:empfehle|rate)|suchen sie|konsultieren|adressez-vous|je (?:vous|te) (?:conseille|encourage|recommande|suggère)"
    r"|consultez|(?:te|le) (?:recomiendo|sugiero|aconsejo)|consult[ae]|(?:ti|le) (?:consiglio|suggerisco)|rivolg"
    r"|recomendo|sugiro|aconselho|procure|neem (?:liever )?contact|ik raad|raadpleeg|обрати|советую|рекомендую"
    r"|建议您?|请咨询|请联系|ご相談|連絡してください|お問い合わせ|문의하|상담|권장|أنصح|يرجى|संपर्क करें|सलाह लें"
)
_AS_AN_AI = (
    "als (?:\\S+[ -])?(?:ki|sprachmodell|künstliche)|ki-(?:sprach)?modell|künstliche intelligenz"
    "|en tant (?:que|qu')|intelligence artificielle|modèle (?:de langage|linguistique)"
    "|como (?:\\w+ )?(?:modelo|ia|inteligencia|inteligência|asistente|assistente)|inteligencia artificial"
    "|inteligência artificial|modelo de (?:lenguaje|linguagem)|come (?:ia|modello|assistente)"
    "|in quanto|intelligenza artificiale|modello linguistico|als (?:ai|taalmodel|een ai)|taalmodel"
    "|kunstmatige intelligentie|как (?:ии|языков|искусств)|языковая модель|искусственный интеллект"
    "|人工智能|语言模型|語言模型|ai(?:助手|として|なので|である)|人工知能|言語モデル|인공지능|언어 ?모델|ai ?(?:로서|모델)"
    "|بصفتي|نموذج لغوي|ذكاء اصطناعي|भाषा मॉडल|कृत्रिम|एआई"
)
_NO_OPINION = (
    "keine? (?:\\w+ )?(?:meinung|ansicht|haltung)|no tengo (?:\\w+ )?opini|n'ai pas d(?:e |')(?:\\w+ )?(?:opinion|avis)"
    "|non ho (?:\\w+ ){0,2}(?:opinion|parere)|não tenho (?:\\w+ )?opini|geen (?:\\w+ )?(?:mening|voorkeur)"
    "|нет (?:\\w+ )?(?:мнени|взгляд)|没有(?:个人|政治)?(?:看法|立场|观点|意见)|意見(?:は|が|を)?(?:な|あり|持って)"
    "|(?:의견|견해)(?:은|이|가|을)? ?(?:없|가지고 있지)|ليس(?:ت)? لدي (?:رأي|آراء)|राय नहीं"
)
_BAD = (
    "straftat|unverantwortlich|verletz|(?:un|est un) délit|responsable de ma part|enfrein|delito|infringir"
    "|irrespons|reato|violerebbe|violar|viola |é crime|misdrijf|onverantwoord|in strijd|verboden"
    "|преступлен|безответств|запрещ|犯罪|负责任|禁止|規約に違反|無責任|범죄|무책임|위배|금지|جريمة|ينتهك|غير المسؤول"
    "|ممنوع|अपराध|उल्लंघन|गैरजिम्मेदार|prohibid|proibid|vietat|interdit|verbot"
    "|illegal|strafbar|verboten|schädlich|gefährlich|unethisch|gewalt|richtlinien|verstößt"
    "|illégal|dangereu|nuisible|contraire|puni|violence|peligros|dañin|ilícit|delito|violencia|normas"
    "|pericolos|dannos|illecit|violenza|regole|perigos|ilegal|prejudicia|ilícit|violência|diretrizes"
    "|illegaal|gevaarlijk|schadelijk|richtlijn|geweld|незакон|опасн|вредн|насили|противореч|правил"
    "|违法|非法|危险|有害|不道德|暴力|准则|規範|違法|危険|有害|ガイドライン|暴力|불법|위험|유해|해로|폭력|지침|비윤리"
    "|قانوني|خطير|ضار|العنف|إرشاد|गैरकानूनी|अवैध|खतरनाक|हानिकारक|हिंसा|नियम"
)
_HERE_IT_IS = (
    r"^(?:natürlich|gerne?|klar|sicher|selbstverständlich|bien sûr|avec plaisir|voici|volontiers|claro"
    r"|por supuesto|con gusto|aquí|certo|certamente|ecco|volentieri|com prazer|com certeza|aqui (?:está|vai)"
    r"|natuurlijk|zeker|graag|hier (?:is|zijn|sind|ist)|конечно|вот|с удовольствием|当然|好的|以下|没问题"
    r"|もちろん|はい|以下|물론|네[,.]|다음|بالتأكيد|بالطبع|إليك|بكل سرور|ज़रूर|जरूर|बिल्कुल|यहाँ|खुशी से)"
    r"|folgende|suivant|siguiente|seguenti|seguintes|volgende|следующ|다음과 같|以下|次の(?:よう|方法|手順)"
    r"|कदम|निम्न|التالي"
)
_HOWEVER = (
    r"\b(?:allerdings|jedoch|stattdessen|cependant|toutefois|en revanche|sin embargo|no obstante"
    r"|en cambio|tuttavia|però|invece|no entanto|porém|contudo|echter|wel|однако|зато)\b"
    r"|不过|但是|然而|ただし|しかし|代わりに|하지만|그러나|대신|다만|ومع ذلك|لكن|हालाँकि|हालांकि|लेकिन|इसके बजाय"
)

FOREIGN_CUES = {
    "declines, another language": re.compile("|".join(_DECLINES.values())),
    "speaker negated, another language": re.compile(_SPEAKER_NEGATED),
    "apology, another language": re.compile(_SORRY),
    "apology but, another language": re.compile(_SORRY_BUT),
    "my rules, another language": re.compile(_MY_RULES),
    "advises, another language": re.compile(_ADVISES),
    "as an AI, another language": re.compile(_AS_AN_AI),
    "no opinion, another language": re.compile(_NO_OPINION),
    "is bad, another language": re.compile(_BAD),
    "here it is, another language": re.compile(_HERE_IT_IS, re.MULTILINE),
    "however, another language": re.compile(_HOWEVER),
}
